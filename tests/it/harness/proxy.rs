//! A TCP proxy between the program and a broker, which does to connections what networks do: it cuts them, delays them,
//! makes them slow, lets them fall silent, or takes no new ones.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Bytes passed on at a time.
const CHUNK: usize = 16 << 10;
/// Chunks on their way in one direction of one connection; beyond this the sender waits, as with a full window.
const CHUNKS_MAX: usize = 256;

/// A direction, as the program sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the program to the broker.
    Up,
    /// From the broker to the program.
    Down,
    Both,
}

/// What is done to connections.
#[derive(Debug, Clone, Default)]
struct Weather {
    up: Road,
    down: Road,
    is_refusing: bool,
    /// How often connections were cut: those of an earlier number are to end.
    cuts: u64,
    target: Option<SocketAddr>,
}

/// What is done to one direction.
#[derive(Debug, Clone, Copy, Default)]
struct Road {
    delay: Duration,
    bytes_per_second: Option<u32>,
    is_silent: bool,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A listening proxy; it ends with the value, and with it its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    counts: Arc<Counts>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// To `host:port`.
    pub fn to(target: &str) -> Self {
        let proxy = Self::without_target();
        proxy.forward_to(target);
        proxy
    }

    /// One whose broker does not listen yet: until [`forward_to`](Self::forward_to), connections are taken and silent.
    pub fn without_target() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (weather, seen) = watch::channel(Weather::default());
        let counts = Arc::new(Counts::default());
        let (address, gate) = {
            let _context = runtime.enter();
            // Bound, but not listening: keeps the port while connections are refused.
            let placeholder = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
            let address = placeholder.local_addr().unwrap();
            (address, Gate { placeholder, address, weather: seen, counts: counts.clone() })
        };
        let proxy = Self { address, weather, counts, runtime: Some(runtime) };
        let listening = Gate::listen(&gate.address, proxy.context());
        proxy.context().spawn(gate.serve(listening));
        proxy
    }

    fn context(&self) -> &Runtime {
        self.runtime.as_ref().expect("there until it is dropped")
    }

    /// Where new connections go from now on.
    pub fn forward_to(&self, target: &str) {
        let target = target.parse().unwrap_or_else(|error| panic!("{target}: {error}"));
        self.weather.send_modify(|weather| weather.target = Some(target));
    }

    /// Where the program connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were taken so far.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many of them have not ended.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Ends all connections with a reset on both sides.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// What passes arrives later by this much.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.change(way, |road| road.delay = delay);
    }

    /// What passes on a connection is so many bytes per second at most.
    pub fn throttle(&self, way: Way, bytes_per_second: u32) {
        self.change(way, |road| road.bytes_per_second = Some(bytes_per_second));
    }

    /// Passes nothing on and closes nothing, not even what one side has closed. New connections are taken, and are silent
    /// as well.
    pub fn fall_silent(&self, way: Way) {
        self.change(way, |road| road.is_silent = true);
    }

    /// New connections are refused; those that are there go on.
    pub fn refuse(&self) {
        self.weather.send_modify(|weather| weather.is_refusing = true);
    }

    /// All is as at the beginning. What was held back in a silent connection passes now.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| {
            *weather = Weather { cuts: weather.cuts, target: weather.target, ..Weather::default() };
        });
    }

    fn change(&self, way: Way, change: impl Fn(&mut Road)) {
        self.weather.send_modify(|weather| {
            if way != Way::Down {
                change(&mut weather.up);
            }
            if way != Way::Up {
                change(&mut weather.down);
            }
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Takes connections, or refuses them.
struct Gate {
    #[expect(dead_code, reason = "holds the port")]
    placeholder: TcpSocket,
    address: SocketAddr,
    weather: watch::Receiver<Weather>,
    counts: Arc<Counts>,
}

impl Gate {
    fn listen(address: &SocketAddr, context: &Runtime) -> TcpListener {
        let _context = context.enter();
        bound(*address).and_then(|socket| socket.listen(1024)).unwrap()
    }

    async fn serve(mut self, first: TcpListener) {
        let mut listening = Some(first);
        loop {
            let accepted = tokio::select! {
                changed = self.weather.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => return,
                },
                Ok((client, _)) = accept(listening.as_ref()) => Some(client),
            };
            if let Some(client) = accepted {
                self.counts.accepted.fetch_add(1, Ordering::SeqCst);
                let open = Open::of(&self.counts);
                tokio::spawn(connect(client, self.weather.clone(), open));
            }
            let is_refusing = self.weather.borrow_and_update().is_refusing;
            if is_refusing {
                listening = None;
            } else if listening.is_none() {
                listening = Some(bound(self.address).and_then(|socket| socket.listen(1024)).unwrap());
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Counts a connection as open while it lives.
struct Open(Arc<Counts>);

impl Open {
    fn of(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::SeqCst);
        Self(counts.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One connection, to its end.
async fn connect(mut client: TcpStream, mut weather: watch::Receiver<Weather>, _open: Open) {
    let cuts = weather.borrow().cuts;
    let mut cut = weather.clone();
    let mut server = None;
    let passing = async {
        let server = server.insert(reach(&mut weather).await?);
        pass(&mut client, server, weather).await
    };
    let is_orderly = tokio::select! {
        result = passing => result.is_ok(),
        _ = cut.wait_for(|weather| weather.cuts != cuts) => false,
    };
    if !is_orderly {
        for end in [Some(client), server].into_iter().flatten() {
            // It is gone already if this fails.
            let _ = end.set_zero_linger();
        }
    }
}

/// Connects to the broker, as soon as anything passes.
async fn reach(weather: &mut watch::Receiver<Weather>) -> io::Result<TcpStream> {
    let is_through = |weather: &Weather| !weather.up.is_silent && !weather.down.is_silent && weather.target.is_some();
    let target = weather.wait_for(is_through).await.map_err(io::Error::other)?.target;
    TcpStream::connect(target.ok_or(io::ErrorKind::NotConnected)?).await
}

/// Passes on what both sides send, until both have closed.
async fn pass(client: &mut TcpStream, server: &mut TcpStream, weather: watch::Receiver<Weather>) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_in, client_out) = client.split();
    let (server_in, server_out) = server.split();
    let up = pump(client_in, server_out, Lane { weather: weather.clone(), way: Way::Up });
    let down = pump(server_in, client_out, Lane { weather, way: Way::Down });
    tokio::try_join!(up, down).map(|_: ((), ())| ())
}

/// One direction of one connection.
struct Lane {
    weather: watch::Receiver<Weather>,
    way: Way,
}

impl Lane {
    fn road(&self) -> Road {
        let weather = self.weather.borrow();
        if self.way == Way::Up { weather.up } else { weather.down }
    }

    async fn until_heard(&mut self) {
        let way = self.way;
        let heard = |weather: &Weather| !(if way == Way::Up { weather.up } else { weather.down }).is_silent;
        // Without a proxy nothing passes any more.
        let _ = self.weather.wait_for(heard).await;
    }
}

/// Reading goes on while what was read waits for its time, so that a delay costs time and no throughput.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut lane: Lane) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let mut reading = Lane { weather: lane.weather.clone(), way: lane.way };
    let read = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            reading.until_heard().await;
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            let due = Instant::now() + reading.road().delay;
            if sender.send((due, buffer[..length].to_vec())).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            lane.until_heard().await;
            to.write_all(&bytes).await?;
            if let Some(rate) = lane.road().bytes_per_second {
                tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(rate))).await;
            }
        }
        lane.until_heard().await;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_: ((), ())| ())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::harness::wait::{SOON, eventually};

    /// Both ends of a connection through the proxy.
    fn ends() -> (Proxy, TcpStream, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::to(&server.local_addr().unwrap().to_string());
        let client = TcpStream::connect(proxy.address()).unwrap();
        let (server, _) = server.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(SOON)).unwrap();
        }
        (proxy, client, server)
    }

    fn check_passes(mut from: &TcpStream, mut to: &TcpStream) {
        from.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        to.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }

    fn check_silent(mut end: &TcpStream) {
        end.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let error = end.read(&mut [0]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        end.set_read_timeout(Some(SOON)).unwrap();
    }

    #[test]
    fn the_proxy_passes_both_ways_and_an_orderly_end_is_orderly() {
        let (proxy, client, mut server) = ends();
        check_passes(&client, &server);
        check_passes(&server, &client);
        assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        drop(server);
        eventually("no open connection", SOON, || match proxy.open() {
            0 => Ok(()),
            open => Err(format!("{open}")),
        });
    }

    #[test]
    fn a_cut_through_the_proxy_is_a_reset_on_both_sides_and_new_connections_live() {
        let (proxy, mut client, mut server) = ends();
        check_passes(&client, &server);
        proxy.cut();
        for end in [&mut client, &mut server] {
            assert_eq!(end.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        drop(TcpStream::connect(proxy.address()).unwrap());
        eventually("another connection", SOON, || match proxy.accepted() {
            2 => Ok(()),
            accepted => Err(format!("{accepted}")),
        });
    }

    #[test]
    fn a_silent_proxy_passes_nothing_not_even_an_end_until_it_is_healed() {
        let (proxy, mut client, mut server) = ends();
        proxy.fall_silent(Way::Down);
        check_passes(&client, &server);
        server.write_all(b"late").unwrap();
        drop(server);
        check_silent(&client);
        proxy.heal();
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "late");
    }

    #[test]
    fn a_connection_taken_in_silence_is_served_once_the_proxy_is_healed() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::to(&server.local_addr().unwrap().to_string());
        proxy.fall_silent(Way::Both);
        let client = TcpStream::connect(proxy.address()).unwrap();
        check_silent(&client);
        proxy.heal();
        let (server, _) = server.accept().unwrap();
        server.set_read_timeout(Some(SOON)).unwrap();
        check_passes(&client, &server);
    }

    #[test]
    fn a_refusing_proxy_is_not_there_for_new_connections_and_comes_back_at_its_port() {
        let (proxy, client, server) = ends();
        proxy.refuse();
        let refused = || match TcpStream::connect(proxy.address()) {
            Ok(_) => Err("connected".to_owned()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        eventually("a refusal", SOON, refused);
        check_passes(&client, &server);
        proxy.heal();
        let taken = || TcpStream::connect(proxy.address()).map_err(|error| error.to_string());
        eventually("a connection", SOON, taken);
    }

    #[test]
    fn delays_and_throttles_of_the_proxy_take_the_time_that_they_should() {
        let (proxy, client, server) = ends();
        proxy.delay(Way::Up, Duration::from_millis(100));
        let started = std::time::Instant::now();
        check_passes(&client, &server);
        assert!(started.elapsed() >= Duration::from_millis(100));
        proxy.heal();
        proxy.throttle(Way::Down, 50);
        let started = std::time::Instant::now();
        for _ in 0..3 {
            check_passes(&server, &client);
        }
        // The last one is through before its time is up.
        assert!(started.elapsed() >= Duration::from_millis(200));
    }
}
