//! Typed trees: a command's parameters on their way in, its results on their way out.
//!
//! A stream is a sequence of records, each an 8-byte header, a key and a value, padded to 8 bytes:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | [`Kind`] |
//! | 1 | 0 |
//! | 2..4 | key length (bytes, little-endian) |
//! | 4..8 | value length (bytes, little-endian) |
//! | 8.. | key, then value, then zeroes up to a multiple of 8 |
//!
//! Maps and lists are opened and closed by records of their own; an element of a list has an empty key.
//! A stream decodes to a [`Value`] tree of bounded depth, size and number of nodes, whatever its bytes are.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Deepest nesting that decodes (a chain's images are a list, not nested).
pub const MAX_DEPTH: usize = 32;
/// A stream holds at most one node for so many of its bytes, on average. What is written in earnest has keys or closes
/// what it opens, and takes more; elements of 8 bytes would decode to seven times their size.
const NODE_BYTES: usize = 16;
/// So many nodes are no matter, however short the stream.
const NODES_FREE: usize = 4096;

/// The record kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Unsigned, 8 bytes.
    U64 = 1,
    /// Signed, 8 bytes.
    I64 = 2,
    /// 8 bytes, 0 or 1.
    Bool = 3,
    /// Bytes as they are; text is UTF-8 only where its writer made it so.
    Bytes = 4,
    /// Opens a map; no value.
    Map = 5,
    /// Opens a list; no value.
    List = 6,
    /// Closes the innermost map or list; no key, no value.
    Close = 7,
}

/// A decoded tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// See [`Kind::U64`].
    U64(u64),
    /// See [`Kind::I64`].
    I64(i64),
    /// See [`Kind::Bool`].
    Bool(bool),
    /// See [`Kind::Bytes`].
    Bytes(Vec<u8>),
    /// Keys in the order in which they were written; a key may not come twice.
    Map(Vec<(String, Value)>),
    /// Elements in order.
    List(Vec<Value>),
}

impl Value {
    /// An empty map.
    #[must_use]
    pub const fn map() -> Self {
        Self::Map(Vec::new())
    }

    /// Adds a key to a map; anything else is left alone.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        if let Self::Map(entries) = self {
            entries.push((key.to_string(), value.into()));
        }
        self
    }

    /// The map's value at `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The number at `key`.
    #[must_use]
    pub fn u64(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Self::U64(n)) => Some(*n),
            _ => None,
        }
    }

    /// The truth value at `key`; absent is false.
    #[must_use]
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Self::Bool(true)))
    }

    /// The bytes at `key`.
    #[must_use]
    pub fn bytes(&self, key: &str) -> Option<&[u8]> {
        match self.get(key) {
            Some(Self::Bytes(b)) => Some(b),
            _ => None,
        }
    }

    /// The bytes at `key`, if they are UTF-8.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.bytes(key).and_then(|b| core::str::from_utf8(b).ok())
    }

    /// The list at `key`; absent is empty.
    #[must_use]
    pub fn list(&self, key: &str) -> &[Value] {
        match self.get(key) {
            Some(Self::List(items)) => items,
            _ => &[],
        }
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Self::U64(n)
    }
}
impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}
impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Self::Bytes(s.as_bytes().to_vec())
    }
}
impl From<String> for Value {
    fn from(s: String) -> Self {
        Self::Bytes(s.into_bytes())
    }
}
impl From<&[u8]> for Value {
    fn from(b: &[u8]) -> Self {
        Self::Bytes(b.to_vec())
    }
}
impl From<Vec<u8>> for Value {
    fn from(b: Vec<u8>) -> Self {
        Self::Bytes(b)
    }
}
impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::List(items)
    }
}

/// Why a stream does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A record ends past the end of the stream, or a map or list is never closed.
    Truncated,
    /// Unknown kind, wrong value length, non-zero padding flag, key that is not UTF-8 or not wanted there.
    Malformed,
    /// Deeper than [`MAX_DEPTH`].
    TooDeep,
    /// More nodes than a stream of that length has in earnest.
    TooMany,
}

fn push(out: &mut Vec<u8>, kind: Kind, key: &str, value: &[u8]) {
    // Keys are short constants of the program; a longer one is cut rather than wrapped.
    let key = &key.as_bytes()[..key.len().min(usize::from(u16::MAX))];
    out.push(kind as u8);
    out.push(0);
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Appends one value and everything below it.
pub fn encode(out: &mut Vec<u8>, key: &str, value: &Value) {
    match value {
        Value::U64(n) => push(out, Kind::U64, key, &n.to_le_bytes()),
        Value::I64(n) => push(out, Kind::I64, key, &n.to_le_bytes()),
        Value::Bool(b) => push(out, Kind::Bool, key, &u64::from(*b).to_le_bytes()),
        Value::Bytes(b) => push(out, Kind::Bytes, key, b),
        Value::Map(entries) => {
            push(out, Kind::Map, key, &[]);
            for (k, v) in entries {
                encode(out, k, v);
            }
            push(out, Kind::Close, "", &[]);
        }
        Value::List(items) => {
            push(out, Kind::List, key, &[]);
            for v in items {
                encode(out, "", v);
            }
            push(out, Kind::Close, "", &[]);
        }
    }
}

struct Record<'a> {
    kind: u8,
    key: &'a str,
    value: &'a [u8],
}

fn next<'a>(stream: &mut &'a [u8]) -> Result<Option<Record<'a>>, DecodeError> {
    let Some((header, rest)) = stream.split_first_chunk::<8>() else {
        return if stream.is_empty() { Ok(None) } else { Err(DecodeError::Truncated) };
    };
    if header[1] != 0 {
        return Err(DecodeError::Malformed);
    }
    let key_len = usize::from(u16::from_le_bytes([header[2], header[3]]));
    let value_len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let body = key_len + value_len;
    let padded = body.next_multiple_of(8);
    if rest.len() < padded {
        return Err(DecodeError::Truncated);
    }
    let key = core::str::from_utf8(&rest[..key_len]).map_err(|_| DecodeError::Malformed)?;
    let record = Record { kind: header[0], key, value: &rest[key_len..body] };
    *stream = &rest[padded..];
    Ok(Some(record))
}

/// Decodes a whole stream to the map of its top-level keys. The tree's size is bounded by the stream's: in bytes, and in
/// nodes, each of which takes memory besides its bytes and a line or more when it is shown.
///
/// # Errors
/// See [`DecodeError`]. A key that comes twice in one map is kept twice; [`Value::get`] gives the first.
pub fn decode(mut stream: &[u8]) -> Result<Value, DecodeError> {
    // An explicit stack: the depth is the other side's to choose, up to the limit.
    let mut open: Vec<(String, Value)> = Vec::new();
    let mut top = (String::new(), Value::map());
    let mut nodes = NODES_FREE.max(stream.len() / NODE_BYTES);
    while let Some(record) = next(&mut stream)? {
        if record.kind != Kind::Close as u8 {
            nodes = nodes.checked_sub(1).ok_or(DecodeError::TooMany)?;
        }
        let number = || record.value.try_into().map(u64::from_le_bytes).map_err(|_| DecodeError::Malformed);
        let (key, value) = match record.kind {
            k if k == Kind::U64 as u8 => (record.key.to_string(), Value::U64(number()?)),
            k if k == Kind::I64 as u8 => (record.key.to_string(), Value::I64(number()?.cast_signed())),
            k if k == Kind::Bool as u8 => match number()? {
                0 => (record.key.to_string(), Value::Bool(false)),
                1 => (record.key.to_string(), Value::Bool(true)),
                _ => return Err(DecodeError::Malformed),
            },
            k if k == Kind::Bytes as u8 => (record.key.to_string(), Value::Bytes(record.value.to_vec())),
            k if k == Kind::Map as u8 || k == Kind::List as u8 => {
                if !record.value.is_empty() {
                    return Err(DecodeError::Malformed);
                }
                if open.len() + 1 >= MAX_DEPTH {
                    return Err(DecodeError::TooDeep);
                }
                let empty = if k == Kind::Map as u8 { Value::map() } else { Value::List(Vec::new()) };
                open.push(core::mem::replace(&mut top, (record.key.to_string(), empty)));
                continue;
            }
            k if k == Kind::Close as u8 => {
                let parent = open.pop().ok_or(DecodeError::Malformed)?;
                if !record.key.is_empty() || !record.value.is_empty() {
                    return Err(DecodeError::Malformed);
                }
                core::mem::replace(&mut top, parent)
            }
            _ => return Err(DecodeError::Malformed),
        };
        match &mut top.1 {
            Value::Map(entries) => entries.push((key, value)),
            Value::List(items) if key.is_empty() => items.push(value),
            _ => return Err(DecodeError::Malformed),
        }
    }
    if open.is_empty() { Ok(top.1) } else { Err(DecodeError::Truncated) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn stream(v: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        let Value::Map(entries) = v else { unreachable!("tests build maps") };
        for (k, v) in entries {
            encode(&mut out, k, v);
        }
        out
    }

    #[test]
    fn a_tree_survives_the_wire() {
        let mut inner = Value::map();
        inner.set("name", "file").set("n", u64::MAX).set("yes", true);
        let mut v = Value::map();
        v.set("list", vec![inner.clone(), Value::I64(-5), Value::List(vec![])]).set("bytes", &b"\xff\0"[..]);
        assert_eq!(decode(&stream(&v)), Ok(v));
    }

    #[test]
    fn every_cut_is_an_error_or_a_shorter_tree_and_never_a_panic() {
        let mut v = Value::map();
        v.set("a", 1u64).set("b", vec![Value::from("x"), Value::map()]);
        let whole = stream(&v);
        for cut in 1..whole.len() {
            if let Ok(part) = decode(&whole[..cut]) {
                assert_ne!(part, v, "cut at {cut}");
            }
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut out = Vec::new();
        for _ in 0..10_000 {
            push(&mut out, Kind::Map, "k", &[]);
        }
        assert_eq!(decode(&out), Err(DecodeError::TooDeep));
    }

    #[test]
    fn nodes_are_bounded() {
        let of = |value: Value, count: usize| stream(&Value::map().set("list", vec![value; count]).clone());
        assert_eq!(decode(&of(Value::from(""), 1 << 20)), Err(DecodeError::TooMany));
        assert_eq!(decode(&of(Value::from(""), 4095)).map(|tree| tree.list("list").len()), Ok(4095));
        // What is written in earnest is not: numbers, and maps, even empty ones.
        for value in [Value::U64(1), Value::map(), Value::from("x")] {
            assert_eq!(decode(&of(value, 1 << 18)).map(|tree| tree.list("list").len()), Ok(1 << 18));
        }
    }

    #[test]
    fn a_close_without_an_open_is_malformed() {
        let mut out = Vec::new();
        push(&mut out, Kind::Close, "", &[]);
        assert_eq!(decode(&out), Err(DecodeError::Malformed));
    }
}
