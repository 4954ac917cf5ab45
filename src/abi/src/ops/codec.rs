//! Structs to record trees and back: each field's key stands once, in its struct.
//!
//! What comes from the guest is hostile to the host: reading takes the tree apart, recurses no deeper than the tree that the
//! decoder let through, makes no more of it than its nodes, and refuses what it does not know.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::record::Value;

/// The keys of a map, and their values.
pub type Entries = Vec<(String, Value)>;

/// Why a tree is not a struct's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A key that has to be there is not.
    Missing(&'static str),
    /// A value of another kind, or out of range.
    Unfit(&'static str),
    /// A key comes twice.
    Twice(&'static str),
    /// There is no such key; its beginning.
    Unknown(String),
}

impl Wrong {
    /// A key that no struct has taken.
    #[must_use]
    pub fn unknown(key: &str) -> Self {
        const SHOWN: usize = 64;
        Self::Unknown(key.chars().take(SHOWN).collect())
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(key) => write!(f, "'{key}' is missing"),
            Self::Unfit(key) => write!(f, "'{key}' has a value that does not fit"),
            Self::Twice(key) => write!(f, "'{key}' comes twice"),
            Self::Unknown(key) => write!(f, "'{key}' is not known"),
        }
    }
}

/// What a field may hold.
pub trait Field: Sized {
    /// From the value at `key`.
    ///
    /// # Errors
    /// See [`Wrong`].
    fn read(value: Value, key: &'static str) -> Result<Self, Wrong>;

    /// The key comes again: lists are one list.
    ///
    /// # Errors
    /// Of all others, there is one value.
    fn again(&mut self, _value: Value, key: &'static str) -> Result<(), Wrong> {
        Err(Wrong::Twice(key))
    }

    /// What it is where there is no such key; `None`: there has to be one.
    #[must_use]
    fn absent() -> Option<Self> {
        None
    }

    /// As a value; `None`: it is left out.
    fn value(self) -> Option<Value>;
}

/// A struct that is a map.
pub trait Record: Sized {
    /// Takes its keys out; the others stay.
    ///
    /// # Errors
    /// See [`Wrong`].
    fn take(entries: &mut Entries) -> Result<Self, Wrong>;

    /// Adds its keys.
    fn put(self, entries: &mut Entries);

    /// From a map that has no other keys.
    ///
    /// # Errors
    /// See [`Wrong`].
    fn from_entries(mut entries: Entries) -> Result<Self, Wrong> {
        let record = Self::take(&mut entries)?;
        entries.first().map_or(Ok(record), |(key, _)| Err(Wrong::unknown(key)))
    }

    /// Its keys, in the order of its fields.
    fn into_entries(self) -> Entries {
        let mut entries = Entries::new();
        self.put(&mut entries);
        entries
    }

    /// As a map.
    fn into_value(self) -> Value {
        Value::Map(self.into_entries())
    }
}

/// Nothing is told.
impl Record for () {
    fn take(_: &mut Entries) -> Result<Self, Wrong> {
        Ok(())
    }
    fn put(self, _: &mut Entries) {}
}

/// Puts a value into a field that may have one already.
// One copy for each type, not for each field: a command reads a few dozen of them, and loads all of the guest.
#[inline(never)]
pub fn fill<T: Field>(field: &mut Option<T>, value: Value, key: &'static str) -> Result<(), Wrong> {
    match field {
        Some(there) => there.again(value, key)?,
        None => *field = Some(T::read(value, key)?),
    }
    Ok(())
}

/// The field once all keys are read.
#[inline(never)]
pub fn done<T: Field>(field: Option<T>, key: &'static str) -> Result<T, Wrong> {
    field.or_else(T::absent).ok_or(Wrong::Missing(key))
}

/// Adds a field to a map.
#[inline(never)]
pub fn put(entries: &mut Entries, key: &'static str, field: impl Field) {
    if let Some(value) = field.value() {
        entries.push((key.to_string(), value));
    }
}

/// Declares structs that are maps: `field: Type = "key"`. With `or default`, the key is left out where the field has that
/// value. `+ field: Record` before the fields: the keys of that one stand among the own.
macro_rules! record {
    ($($(#[$meta:meta])* pub struct $name:ident $(+ $flat:ident: $flat_ty:ty =>)? {
        $($(#[$field_meta:meta])* pub $field:ident: $ty:ty = $key:literal $(or $default:expr)?,)*
    })*) => {$(
        $(#[$meta])*
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)*
            $(
                /// Its keys stand among those of this one.
                pub $flat: $flat_ty,
            )?
        }

        impl $crate::ops::codec::Record for $name {
            #[inline(never)]
            fn take(entries: &mut $crate::ops::codec::Entries) -> Result<Self, $crate::ops::codec::Wrong> {
                $(let mut $field: Option<$ty> = None;)*
                for (key, value) in core::mem::take(entries) {
                    match key.as_str() {
                        $($key => $crate::ops::codec::fill(&mut $field, value, $key)?,)*
                        _ => entries.push((key, value)),
                    }
                }
                Ok(Self {
                    $($field: record!(@done $field, $key $(, $default)?),)*
                    $($flat: $crate::ops::codec::Record::take(entries)?,)?
                })
            }

            fn put(self, entries: &mut $crate::ops::codec::Entries) {
                $(record!(@put entries, self.$field, $ty, $key $(, $default)?);)*
                $($crate::ops::codec::Record::put(self.$flat, entries);)?
            }
        }

        impl $crate::ops::codec::Field for $name {
            fn read(value: $crate::record::Value, key: &'static str) -> Result<Self, $crate::ops::codec::Wrong> {
                match value {
                    $crate::record::Value::Map(entries) => $crate::ops::codec::Record::from_entries(entries),
                    _ => Err($crate::ops::codec::Wrong::Unfit(key)),
                }
            }

            fn value(self) -> Option<$crate::record::Value> {
                Some($crate::ops::codec::Record::into_value(self))
            }
        }
    )*};
    (@done $field:ident, $key:literal) => { $crate::ops::codec::done($field, $key)? };
    (@done $field:ident, $key:literal, $default:expr) => { $field.unwrap_or_else(|| $default) };
    (@put $entries:ident, $field:expr, $ty:ty, $key:literal) => { $crate::ops::codec::put($entries, $key, $field) };
    (@put $entries:ident, $field:expr, $ty:ty, $key:literal, $default:expr) => {
        let default: $ty = $default;
        if $field != default {
            $crate::ops::codec::put($entries, $key, $field);
        }
    };
}

/// Declares enumerations that are words on the wire.
macro_rules! words {
    ($($(#[$meta:meta])* pub enum $name:ident { $($(#[$word_meta:meta])* $word:ident = $text:literal,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$word_meta])* $word,)* }

        impl $crate::ops::codec::Field for $name {
            fn read(value: $crate::record::Value, key: &'static str) -> Result<Self, $crate::ops::codec::Wrong> {
                match <alloc::string::String as $crate::ops::codec::Field>::read(value, key)?.as_str() {
                    $($text => Ok(Self::$word),)*
                    _ => Err($crate::ops::codec::Wrong::Unfit(key)),
                }
            }

            fn value(self) -> Option<$crate::record::Value> {
                let text = match self { $(Self::$word => $text,)* };
                Some(text.into())
            }
        }
    )*};
}

pub(super) use {record, words};

impl Field for u64 {
    fn read(value: Value, key: &'static str) -> Result<Self, Wrong> {
        match value {
            Value::U64(number) => Ok(number),
            _ => Err(Wrong::Unfit(key)),
        }
    }
    fn value(self) -> Option<Value> {
        Some(Value::U64(self))
    }
}

impl Field for u32 {
    fn read(value: Value, key: &'static str) -> Result<Self, Wrong> {
        u64::read(value, key).and_then(|number| Self::try_from(number).map_err(|_| Wrong::Unfit(key)))
    }
    fn value(self) -> Option<Value> {
        Some(Value::U64(self.into()))
    }
}

impl Field for bool {
    fn read(value: Value, key: &'static str) -> Result<Self, Wrong> {
        match value {
            Value::Bool(is) => Ok(is),
            _ => Err(Wrong::Unfit(key)),
        }
    }
    fn absent() -> Option<Self> {
        Some(false)
    }
    fn value(self) -> Option<Value> {
        Some(Value::Bool(self))
    }
}

/// Bytes as they are.
impl Field for Vec<u8> {
    fn read(value: Value, key: &'static str) -> Result<Self, Wrong> {
        match value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(Wrong::Unfit(key)),
        }
    }
    fn value(self) -> Option<Value> {
        Some(Value::Bytes(self))
    }
}

/// UTF-8.
impl Field for String {
    fn read(value: Value, key: &'static str) -> Result<Self, Wrong> {
        Vec::<u8>::read(value, key).and_then(|bytes| Self::from_utf8(bytes).map_err(|_| Wrong::Unfit(key)))
    }
    fn value(self) -> Option<Value> {
        Some(Value::Bytes(self.into_bytes()))
    }
}

/// What is data and no contract: keys and all.
impl Field for Value {
    fn read(value: Value, _: &'static str) -> Result<Self, Wrong> {
        Ok(value)
    }
    fn value(self) -> Option<Value> {
        Some(self)
    }
}

impl<T: Field> Field for Option<T> {
    fn read(value: Value, key: &'static str) -> Result<Self, Wrong> {
        T::read(value, key).map(Some)
    }
    fn again(&mut self, value: Value, key: &'static str) -> Result<(), Wrong> {
        fill(self, value, key)
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn value(self) -> Option<Value> {
        self.and_then(T::value)
    }
}

/// Written also where it is empty.
impl<T: Field> Field for Vec<T> {
    fn read(value: Value, key: &'static str) -> Result<Self, Wrong> {
        match value {
            // Piece by piece: a list of a hundred thousand elements is not there twice.
            Value::List(items) => items.into_iter().map(|item| T::read(item, key)).collect(),
            _ => Err(Wrong::Unfit(key)),
        }
    }
    fn again(&mut self, value: Value, key: &'static str) -> Result<(), Wrong> {
        self.append(&mut Self::read(value, key)?);
        Ok(())
    }
    fn absent() -> Option<Self> {
        Some(Self::new())
    }
    fn value(self) -> Option<Value> {
        Some(Value::List(self.into_iter().filter_map(T::value).collect()))
    }
}
