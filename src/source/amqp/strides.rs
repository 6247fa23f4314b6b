//! Sockets that are read in strides, for connections on which much arrives.
//!
//! A server sends messages in many small packets, and each wakes the reactor and the client's own thread. On a socket that
//! is busy the reactor is therefore not asked: it is read once in a [`STRIDE`], until it falls silent. That takes a
//! quarter of the client's time per message, and costs each message up to two milliseconds on its way. It suits
//! connections that have many messages under way at once; on others the wait would be felt.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures_util::Stream;
use futures_util::{AsyncRead, AsyncWrite};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::Sleep;

/// How long a stride lasts.
const STRIDE: Duration = Duration::from_millis(1);
/// Reads in a row, each within [`CLOSE_BY`] of the one before, that make a socket busy.
const BUSY_READS: u32 = 16;
const CLOSE_BY: Duration = Duration::from_millis(1);
/// Strides without a byte that end it.
const SILENT_STRIDES: u32 = 4;

/// Tokio, with sockets that are read in strides while they are busy.
#[derive(Debug, Clone)]
pub(super) struct Strides {
    tokio: Tokio,
    handle: Handle,
}

impl Strides {
    /// Bound to the runtime that this is called in.
    pub(super) fn current() -> Self {
        Self { tokio: Tokio::current(), handle: Handle::current() }
    }
}

impl RuntimeKit for Strides {}

impl Executor for Strides {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.tokio.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, future: F) -> Task<Self::Task<T>> {
        self.tokio.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, work: F) -> Task<Self::Task<T>> {
        self.tokio.spawn_blocking(work)
    }
}

impl Reactor for Strides {
    type TcpStream = Socket;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.tokio.tcp_connect_addr(address);
        let handle = self.handle.clone();
        async move {
            let stream = connecting.await?.into_inner();
            Ok(Socket { mode: Mode::watched(stream), handle, reader: None })
        }
    }
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    mode: Mode,
    handle: Handle,
    /// Who waits for something to read.
    reader: Option<Waker>,
}

/// When a socket is read.
#[derive(Debug)]
enum Mode {
    /// When the reactor says that there is something.
    Watched { stream: tokio::net::TcpStream, close_reads: u32, last: Option<Instant> },
    /// Until it is empty, and then again in the next stride; the reactor knows nothing of it.
    Strides { stream: TcpStream, next: Option<Pin<Box<Sleep>>>, silent: u32 },
    /// Changing from one to the other has failed.
    Lost,
}

impl Mode {
    fn watched(stream: tokio::net::TcpStream) -> Self {
        Self::Watched { stream, close_reads: 0, last: None }
    }
}

impl Socket {
    fn stop_watching(&mut self) -> io::Result<()> {
        let _entered = self.handle.enter();
        if let Mode::Watched { stream, .. } = std::mem::replace(&mut self.mode, Mode::Lost) {
            self.mode = Mode::Strides { stream: stream.into_std()?, next: None, silent: 0 };
        }
        Ok(())
    }

    fn watch(&mut self) -> io::Result<()> {
        let _entered = self.handle.enter();
        if let Mode::Strides { stream, .. } = std::mem::replace(&mut self.mode, Mode::Lost) {
            self.mode = Mode::watched(tokio::net::TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    /// Reads a socket in strides. `None` when it has been silent for long.
    fn read_in_strides(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Option<io::Result<usize>>> {
        let Mode::Strides { stream, next, silent } = &mut self.mode else { return Poll::Ready(None) };
        loop {
            if let Some(stride) = next {
                ready!(stride.as_mut().poll(cx));
                *next = None;
            }
            let result = stream.read(buffer);
            if !would_block(&result) {
                *silent = 0;
                return Poll::Ready(Some(result));
            }
            if *silent == SILENT_STRIDES {
                return Poll::Ready(None);
            }
            *silent += 1;
            let _entered = self.handle.enter();
            *next = Some(Box::pin(tokio::time::sleep(STRIDE)));
        }
    }
}

/// Whether a socket is busy that has been read, and notes the read.
fn is_busy(close_reads: &mut u32, last: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    let is_close = last.replace(now).is_some_and(|last| now.duration_since(last) <= CLOSE_BY);
    *close_reads = if is_close { *close_reads + 1 } else { 0 };
    *close_reads >= BUSY_READS
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket could not be registered again")
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        loop {
            match &mut self.mode {
                Mode::Watched { stream, close_reads, last } => {
                    let mut into = ReadBuf::new(buffer);
                    ready!(Pin::new(stream).poll_read(cx, &mut into))?;
                    let count = into.filled().len();
                    if count > 0 && is_busy(close_reads, last) {
                        self.stop_watching()?;
                    }
                    return Poll::Ready(Ok(count));
                }
                Mode::Strides { .. } => match ready!(self.read_in_strides(cx, buffer)) {
                    Some(result) => return Poll::Ready(result),
                    None => self.watch()?,
                },
                Mode::Lost => return Poll::Ready(Err(lost())),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match &mut self.mode {
                Mode::Watched { stream, .. } => return Pin::new(stream).poll_write(cx, buffer),
                Mode::Strides { stream, .. } => {
                    let result = stream.write(buffer);
                    if !would_block(&result) {
                        return Poll::Ready(result);
                    }
                    // Only the reactor knows when there is room again. What waits for the next stride waits for it, too.
                    self.watch()?;
                    if let Some(reader) = self.reader.take() {
                        reader.wake();
                    }
                }
                Mode::Lost => return Poll::Ready(Err(lost())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.mode {
            Mode::Watched { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Mode::Strides { stream, .. } => Poll::Ready(stream.shutdown(Shutdown::Write)),
            Mode::Lost => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
    use proptest::prelude::*;

    use super::*;

    /// A socket, and the other end of its connection.
    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connecting = Strides::current().tcp_connect_addr(listener.local_addr().unwrap());
        let socket = connecting.await.unwrap();
        (socket, listener.accept().unwrap().0)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn is_in_strides(socket: &Socket) -> bool {
        matches!(socket.mode, Mode::Strides { .. })
    }

    #[test]
    fn a_busy_socket_is_read_in_strides_and_a_silent_one_is_watched_again() {
        runtime().block_on(async {
            let (mut socket, mut peer) = pair().await;
            peer.set_nodelay(true).unwrap();
            let mut byte = [0];
            // The peer sends a byte when it has seen that the one before was read, until the socket is taken for busy.
            let mut reads = 0;
            while !is_in_strides(&socket) {
                peer.write_all(b"x").unwrap();
                socket.read_exact(&mut byte).await.unwrap();
                reads += 1;
            }
            assert!(reads > BUSY_READS, "{reads}");
            let silent = tokio::time::timeout(Duration::from_millis(200), socket.read_exact(&mut byte));
            assert!(silent.await.is_err() && !is_in_strides(&socket));
            peer.write_all(b"y").unwrap();
            socket.read_exact(&mut byte).await.unwrap();
            assert_eq!(&byte, b"y");
        });
    }

    #[test]
    fn the_end_is_seen_in_either_mode() {
        for strides in [false, true] {
            runtime().block_on(async {
                let (mut socket, mut peer) = pair().await;
                let mut byte = [0];
                while is_in_strides(&socket) != strides {
                    peer.write_all(b"x").unwrap();
                    socket.read_exact(&mut byte).await.unwrap();
                }
                drop(peer);
                assert_eq!(socket.read(&mut byte).await.unwrap(), 0);
            });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// Both directions at once, with more under way than the sockets hold, in pieces of any size.
        #[test]
        fn what_goes_in_comes_out(sizes in prop::collection::vec(1usize..40_000, 50..200), slow in any::<bool>()) {
            let sent: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|index| (index * 31 % 251) as u8).collect();
            let expected = sent.clone();
            runtime().block_on(async {
                let (socket, peer) = pair().await;
                let (mut from, mut to) = socket.split();
                let mut source = peer.try_clone().unwrap();
                let feed = thread::spawn(move || sizes.iter().fold(&sent[..], |rest, size| {
                    let (piece, rest) = rest.split_at(*size);
                    source.write_all(piece).unwrap();
                    if slow && size % 7 == 0 {
                        thread::yield_now();
                    }
                    rest
                }).len());
                let length = expected.len();
                let drain = thread::spawn(move || {
                    let mut back = vec![0; length];
                    let mut peer = peer;
                    peer.read_exact(&mut back).unwrap();
                    back
                });
                let mut received = vec![0; length];
                let (read, written) = futures_util::join!(from.read_exact(&mut received), to.write_all(&expected));
                read.unwrap();
                written.unwrap();
                assert!(received == expected && drain.join().unwrap() == expected);
                assert_eq!(feed.join().unwrap(), 0);
            });
        }
    }
}
