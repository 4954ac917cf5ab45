//! The order in which qemu-img prints keys: that of its own hash table.
//!
//! QEMU's dictionaries have 512 buckets; the hash is that of the trivial database (tdb). They are walked bucket by
//! bucket, and within one the key that was put in last comes first.

use instar_abi::record::Value;

const BUCKETS: u32 = 512;

fn bucket(key: &str) -> u32 {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let start = 0x238f_13af_u32.wrapping_mul(length);
    let sum = key.bytes().zip(0u32..).fold(start, |sum, (byte, i)| sum.wrapping_add(u32::from(byte) << (i * 5 % 24)));
    sum.wrapping_mul(1_103_515_243).wrapping_add(12345) % BUCKETS
}

/// A map's entries in that order.
#[must_use]
pub fn sorted(entries: &[(String, Value)]) -> Vec<&(String, Value)> {
    let mut sorted: Vec<_> = entries.iter().rev().collect();
    sorted.sort_by_key(|(key, _)| bucket(key));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `qemu-img info --output=json` (10.0.2) of a qcow2 image with everything.
    #[test]
    fn keys_come_as_the_stock_tool_prints_them() {
        let expected = [
            "children",
            "virtual-size",
            "filename",
            "cluster-size",
            "format",
            "actual-size",
            "format-specific",
            "dirty-flag",
        ];
        let mut given: Vec<(String, Value)> = expected.iter().map(|k| ((*k).to_string(), Value::Bool(true))).collect();
        given.sort_by(|a, b| a.0.cmp(&b.0));
        let got: Vec<&str> = sorted(&given).into_iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn qcow2_keys_too() {
        let expected = ["compat", "compression-type", "lazy-refcounts", "refcount-bits", "corrupt", "extended-l2"];
        let mut given: Vec<(String, Value)> = expected.iter().map(|k| ((*k).to_string(), Value::Bool(true))).collect();
        given.reverse();
        let got: Vec<&str> = sorted(&given).into_iter().map(|(k, _)| k.as_str()).collect();
        assert_eq!(got, expected);
    }
}
