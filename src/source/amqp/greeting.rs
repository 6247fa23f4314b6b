//! What a server says of itself before anybody has logged in: the first frame of the protocol, which the client library
//! keeps to itself.

use std::io;

use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a client of AMQP 0-9-1 sends first.
const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// Type, channel and size of a frame.
const FRAME_HEAD: usize = 7;
const METHOD_FRAME: u8 = 1;
/// Class and method of `connection.start`, in one number.
const CONNECTION_START: u32 = (10 << 16) | 10;
/// Class, method, and the two parts of the protocol's version.
const START_HEAD: usize = 6;
/// Far more than any server says.
const FRAME_MAX: u32 = 64 << 10;

/// Answers the server's product and version, such as `RabbitMQ 4.1.0`. Must be called within a tokio runtime.
///
/// # Errors
/// When the connection fails; `InvalidData` where something else than AMQP 0-9-1 is spoken.
pub(super) async fn greet(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(HEADER).await?;
    let mut head = [0; FRAME_HEAD];
    stream.read_exact(&mut head).await.map_err(cut_short)?;
    let [kind, _, _, size @ ..] = head;
    let size = u32::from_be_bytes(size);
    if kind != METHOD_FRAME || size > FRAME_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; size as usize];
    stream.read_exact(&mut payload).await.map_err(cut_short)?;
    product(&payload).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Who does not know the protocol hangs up, often after a few words of his own.
fn cut_short(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { io::ErrorKind::InvalidData.into() } else { error }
}

fn product(payload: &[u8]) -> Option<String> {
    let (method, rest) = payload.split_first_chunk::<4>()?;
    let (_, properties) = rest.split_at_checked(START_HEAD - method.len())?;
    if u32::from_be_bytes(*method) != CONNECTION_START {
        return None;
    }
    let (_, properties) = parse_field_table(properties).ok()?;
    let texts = ["product", "version"].map(|key| text(&properties, key));
    Some(texts.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

fn text(properties: &FieldTable, key: &str) -> Option<String> {
    match properties.inner().get(key)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of texts behind the head of a method.
    fn start(method: [u8; 4], properties: &[(&str, &str)]) -> Vec<u8> {
        let mut table = Vec::new();
        for (key, value) in properties {
            table.push(u8::try_from(key.len()).unwrap());
            table.extend(key.as_bytes());
            table.push(b'S');
            table.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            table.extend(value.as_bytes());
        }
        let size = u32::try_from(table.len()).unwrap().to_be_bytes();
        [&method[..], &[0, 9], &size[..], &table[..]].concat()
    }

    #[test]
    fn the_product_is_read_and_nothing_else_is_taken_for_it() {
        let told = start([0, 10, 0, 10], &[("platform", "x"), ("product", "RabbitMQ"), ("version", "4.1.0")]);
        assert_eq!(product(&told).as_deref(), Some("RabbitMQ 4.1.0"));
        assert_eq!(product(&start([0, 10, 0, 10], &[])).as_deref(), Some(""));
        assert_eq!(product(&start([0, 10, 0, 30], &[])), None);
        for length in 0..told.len() {
            assert_eq!(product(&told[..length]), None, "{length} bytes");
        }
    }
}
