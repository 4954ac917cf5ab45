//! The snapshot table of `info` and `snapshot -l`.

use instar_abi::ops::info::SnapshotInfo;

use crate::escape::terminal;
use crate::human::LocalTime;
use crate::size::human;
use crate::version::{QemuVersion, SnapshotTable};

/// What is stored as `bytes`, filled up as the stock tool does it: it counts bytes.
fn padded(bytes: &[u8], width: usize) -> String {
    let blanks = " ".repeat(width.saturating_sub(bytes.len()));
    format!("{}{blanks}", terminal(bytes))
}

/// The line; identifier and tag are wide enough already.
fn line(style: SnapshotTable, (id, tag): (String, String), [size, date, clock, icount]: [&str; 4]) -> String {
    match style {
        SnapshotTable::Touching => format!("{id}{tag}{size:>8}{date:>20}{clock:>13}{icount:>11}"),
        SnapshotTable::Spaced => format!("{id} {tag} {size:>8}{date:>20}{clock:>13}{icount:>11}"),
        SnapshotTable::Underscored => format!("{id} {tag} {size:>8} {date:>19} {clock:>15} {icount:>10}"),
    }
}

/// The lines of the table, header first.
pub fn table(snapshots: &[SnapshotInfo], version: QemuVersion, time: &dyn LocalTime) -> impl Iterator<Item = String> {
    let style = version.snapshot_table();
    let widths = match style {
        SnapshotTable::Touching => (10, 17),
        SnapshotTable::Spaced => (9, 16),
        SnapshotTable::Underscored => (7, 16),
    };
    let of_tag = move |id: &[u8], tag: &[u8]| (padded(id, widths.0), padded(tag, widths.1));
    let names = match style {
        SnapshotTable::Underscored => ["VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"],
        _ => ["VM SIZE", "DATE", "VM CLOCK", "ICOUNT"],
    };
    let header = line(style, of_tag(b"ID", b"TAG"), names);
    let rows = snapshots.iter().map(move |snapshot| {
        let tagged = of_tag(&snapshot.id, &snapshot.name);
        let seconds = snapshot.vm_clock_sec;
        let (hours, minutes, secs) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let millis = snapshot.vm_clock_nsec / 1_000_000;
        let clock = match style {
            SnapshotTable::Underscored => format!("{hours:04}:{minutes:02}:{secs:02}.{millis:03}"),
            _ => format!("{hours:02}:{minutes:02}:{secs:02}.{millis:03}"),
        };
        let absent = if style == SnapshotTable::Underscored { "--" } else { "" };
        let icount = snapshot.icount.map_or_else(|| absent.to_string(), |n| n.to_string());
        let date = time.format(snapshot.date_sec);
        line(style, tagged, [&human(snapshot.vm_state_size), &date, &clock, &icount])
    });
    std::iter::once(header).chain(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl LocalTime for Fixed {
        fn format(&self, _: u64) -> String {
            "2026-11-23 05:03:44".to_string()
        }
    }

    /// `qemu-img snapshot -l` of 5.2.0 / 7.2.22 and of 10.0.2.
    #[test]
    fn tables_look_as_the_stock_tools_look() {
        let of = |name: &str| SnapshotInfo {
            id: b"1".to_vec(),
            name: name.as_bytes().to_vec(),
            icount: Some(0),
            ..SnapshotInfo::default()
        };
        let snapshot = of("first");
        let old = [
            "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT",
            "1         first                 0 B 2026-11-23 05:03:44 00:00:00.000          0",
        ];
        // The tag of `snapshot -c 'a very long tag name here'`, in 5.2.0.
        let long = of("a very long tag name here");
        let new = [
            "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT",
            "1       first                 0 B 2026-11-23 05:03:44  0000:00:00.000          0",
        ];
        let row = "1         a very long tag name here     0 B 2026-11-23 05:03:44 00:00:00.000          0";
        // Columns are counted in bytes: that of `ä€`, in 10.0.2.
        let wide = of("\u{e4}\u{20ac}");
        let wide = table(&[wide], "10.0".parse().expect("a version"), &Fixed).last();
        assert_eq!(wide.map(|line| line.chars().count()), Some(new[1].len() - 3));
        assert_eq!(table(&[long], "5.2".parse().expect("a version"), &Fixed).last().as_deref(), Some(row));
        let of = |v: &str| {
            let lines = table(std::slice::from_ref(&snapshot), v.parse().expect("a version"), &Fixed);
            lines.collect::<Vec<_>>()
        };
        assert_eq!(of("5.2"), old);
        assert_eq!(of("7.2"), old);
        assert_eq!(of("10.0"), new);
    }
}
