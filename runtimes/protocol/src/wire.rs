//! The alphabet of the frames: little-endian integers and length-prefixed bytes.
//!
//! A frame is `u32 length, u8 kind, body`; the length counts kind and body. Reading never panics and
//! never allocates more than the frame holds, whatever the bytes say.

/// The longest frame either side accepts, in bytes.
pub const FRAME_MAX: usize = 256 << 20;

/// Why bytes are not a frame of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the frame ends early")]
    Truncated,
    #[error("the frame has {0} bytes too many")]
    Trailing(usize),
    #[error("a frame of {0} bytes is longer than {FRAME_MAX}")]
    TooLong(usize),
    #[error("text in the frame is not UTF-8")]
    NotUtf8,
    #[error("{what} {value} is unknown")]
    Unknown { what: &'static str, value: u8 },
}

/// Appends one frame to `out`: `body` writes what follows the kind.
pub fn frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    body(out);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// A frame's kind and body, and how many bytes it takes up with its length.
pub type Split<'a> = (u8, &'a [u8], usize);

/// Finds the first frame in `buffer`; `None` while it is not whole.
pub fn split_frame(buffer: &[u8]) -> Result<Option<Split<'_>>, WireError> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    if length == 0 {
        return Err(WireError::Truncated);
    }
    if length > FRAME_MAX {
        return Err(WireError::TooLong(length));
    }
    match buffer.get(4..4 + length) {
        Some(whole) => Ok(Some((whole[0], &whole[1..], 4 + length))),
        None => Ok(None),
    }
}

/// Appends the alphabet to a buffer.
pub trait Write {
    fn u8(&mut self, value: u8);
    fn u32(&mut self, value: u32);
    fn u64(&mut self, value: u64);
    fn bytes(&mut self, value: &[u8]);
    fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }
}

impl Write for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }
    fn u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.extend_from_slice(value);
    }
}

/// Reads the alphabet from a frame's body.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.chunk::<1>()?[0])
    }

    pub fn bool(&mut self) -> Result<bool, WireError> {
        Ok(self.u8()? != 0)
    }

    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.chunk()?))
    }

    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.chunk()?))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub fn text(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::NotUtf8)
    }

    /// A counted list. An element takes at least one byte, which bounds what a lying count can claim.
    pub fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Result<T, WireError>) -> Result<Vec<T>, WireError> {
        let count = self.u32()? as usize;
        if count > self.rest.len() {
            return Err(WireError::Truncated);
        }
        (0..count).map(|_| element(self)).collect()
    }

    /// Ends reading; bytes left over mean that the other side speaks another version.
    pub fn end(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(WireError::Trailing(extra)),
        }
    }
}
