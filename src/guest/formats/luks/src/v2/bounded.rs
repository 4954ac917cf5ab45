//! Lists of which an image says how long they are, and which are refused where they are longer than any program makes
//! them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Entries of a list (LUKS2: 32 key slots).
pub const ENTRIES_MAX: usize = 32;

/// An object whose keys are numbers, in their order.
#[derive(Clone, Debug)]
pub struct Table<T>(pub Vec<(u32, T)>);

/// An array.
#[derive(Clone, Debug)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

struct Entries<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<Table<T>> {
    type Value = Table<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of at most {ENTRIES_MAX} numbered entries")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Table<T>, A::Error> {
        let mut entries: Vec<(u32, T)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let number = key.parse().map_err(|_| A::Error::custom("an entry without a number"))?;
            if entries.len() == ENTRIES_MAX || entries.iter().any(|(known, _)| *known == number) {
                return Err(A::Error::custom("too many entries, or one twice"));
            }
            entries.push((number, map.next_value()?));
        }
        entries.sort_by_key(|(number, _)| *number);
        Ok(Table(entries))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries::<Self>(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<List<T>> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {ENTRIES_MAX} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = seq.next_element()? {
            if entries.len() == ENTRIES_MAX {
                return Err(A::Error::custom("too many entries"));
            }
            entries.push(entry);
        }
        Ok(List(entries))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Entries::<Self>(PhantomData))
    }
}
