//! Key slots changed in place: a password more, or one less.
//!
//! A new slot's key material is written first; then, behind a barrier, what derives its key; and last, behind another one, that it
//! is in use, which lies in one sector. What a slot held is overwritten before the header says that it is free, so that no cut
//! leaves a free slot that could be opened. A slot that is in use is written over only by force, and then by way of a free one,
//! if there is one: at each moment the old password or the new one opens the image.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use instar_image::options::{OptionKind, OptionSpec, Options};
use instar_image::values::number;
use instar_image::{DeviceId, Error, FileOffset, Machine, Result, Source, Step};

use super::create::{rounds, rounds_per_second, seal};
use super::options::ITER_TIME;
use super::{Header, SALT, SLOT, SLOT_ACTIVE, SLOT_FREE, SLOTS, SLOTS_AT, check_places, password};

const ITER_TIME_HELP: &str = "Time to spend in PBKDF in milliseconds";
const KEYSLOT_HELP: &str = "Select a single keyslot to modify explicitly";
const NEW_SECRET_HELP: &str = "New secret to set in the matching keyslots. Empty string to erase";
const OLD_SECRET_HELP: &str = "Select all keyslots that match this password";
const STATE_HELP: &str = "Select new state of affected keyslots (active/inactive)";

/// The options of a LUKS image.
pub const OPTIONS: [OptionSpec; 5] = [
    OptionSpec::new("iter-time", OptionKind::Number, ITER_TIME_HELP),
    OptionSpec::new("keyslot", OptionKind::Number, KEYSLOT_HELP),
    OptionSpec::new("new-secret", OptionKind::Text, NEW_SECRET_HELP),
    OptionSpec::new("old-secret", OptionKind::Text, OLD_SECRET_HELP),
    OptionSpec::new("state", OptionKind::Text, STATE_HELP),
];

/// Those of an image of another format that has a LUKS header inside.
pub const OPTIONS_INSIDE: [OptionSpec; 5] = [
    OptionSpec::new("encrypt.iter-time", OptionKind::Number, ITER_TIME_HELP),
    OptionSpec::new("encrypt.keyslot", OptionKind::Number, KEYSLOT_HELP),
    OptionSpec::new("encrypt.new-secret", OptionKind::Text, NEW_SECRET_HELP),
    OptionSpec::new("encrypt.old-secret", OptionKind::Text, OLD_SECRET_HELP),
    OptionSpec::new("encrypt.state", OptionKind::Text, STATE_HELP),
];

/// What is to become of the slots.
pub struct SlotChange<'o> {
    active: bool,
    new_secret: Option<&'o str>,
    old_secret: Option<&'o str>,
    slot: Option<u64>,
    iter_time: Option<u64>,
    force: bool,
}

impl<'o> SlotChange<'o> {
    /// Reads the options whose names begin with `prefix`.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn read(options: &'o Options, prefix: &str, force: bool) -> Result<Self> {
        let given = |name: &str| options.get(&format!("{prefix}{name}"));
        let numbered = |name: &str| given(name).map(|text| number(name, text)).transpose();
        let active = match given("state") {
            None => return Err(Error::usage("Parameter 'state' is missing")),
            Some("active") => true,
            Some("inactive") => false,
            Some(other) => {
                return Err(Error::usage(format!("Parameter 'state' does not accept value '{other}'")));
            }
        };
        Ok(Self {
            active,
            new_secret: given("new-secret"),
            old_secret: given("old-secret"),
            slot: numbered("keyslot")?,
            iter_time: numbered("iter-time")?,
            force,
        })
    }

    fn check_slot(&self) -> Result<Option<usize>> {
        let Some(number) = self.slot else { return Ok(None) };
        let slot = usize::try_from(number).ok().filter(|slot| *slot < SLOTS).ok_or_else(|| {
            // As the stock tool counts.
            let number = number & u64::from(u32::MAX);
            Error::usage(format!("Invalid keyslot {number} specified, must be between 0 and {}", SLOTS - 1))
        });
        slot.map(Some)
    }
}

/// Where a header is.
struct Slots<'s> {
    header: &'s Header,
    machine: &'s dyn Machine,
    device: DeviceId,
    /// Where in the device the header begins.
    offset: FileOffset,
}

impl Header {
    /// Changes the slots of the header at `offset` in `device`, which `opening` opens.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn change_slots(
        &self,
        machine: &dyn Machine,
        (device, offset): (DeviceId, FileOffset),
        opening: &[u8],
        wanted: &SlotChange<'_>,
    ) -> Result<()> {
        // Old releases do not look when they open it; here something is written there.
        check_places(&self.slots, (!self.detached).then_some(self.payload), self.key_bytes as u32, self.rounds)?;
        let slots = Slots { header: self, machine, device, offset };
        if wanted.active { slots.activate(opening, wanted) } else { slots.erase(wanted) }
    }
}

impl Slots<'_> {
    fn is_active(&self, slot: usize) -> bool {
        self.header.slots.get(slot).is_some_and(|slot| slot.active)
    }

    fn free_slot(&self) -> Option<usize> {
        (0..SLOTS).find(|slot| !self.is_active(*slot))
    }

    fn count(&self) -> usize {
        (0..SLOTS).filter(|slot| self.is_active(*slot)).count()
    }

    /// Where in the device a slot's key material begins.
    fn material_at(&self, slot: usize) -> FileOffset {
        self.offset.saturating_add(self.header.slots.get(slot).map_or(0, |slot| slot.offset))
    }

    fn activate(&self, opening: &[u8], wanted: &SlotChange<'_>) -> Result<()> {
        let source = self.machine.source();
        let new = wanted.new_secret.ok_or_else(|| Error::usage("'new-secret' is required to activate a keyslot"))?;
        if wanted.old_secret.is_some() {
            return Err(Error::usage("'old-secret' must not be given when activating keyslots"));
        }
        let slot = match wanted.check_slot()? {
            Some(slot) if self.is_active(slot) && !wanted.force => {
                let text = format!("Refusing to overwrite active keyslot {slot} - please erase it first");
                return Err(Error::usage(text));
            }
            Some(slot) => slot,
            None => {
                let full = || Error::usage("Can't add a keyslot - all keyslots are in use");
                self.free_slot().ok_or_else(full)?
            }
        };
        let key = self.header.master_key(source, self.device, self.offset, opening)?;
        let new = password(source, Some(new), "new-secret")?;
        let iter_time = wanted.iter_time.unwrap_or(ITER_TIME);
        let hash = self.header.hash;
        let rounds = rounds(hash, iter_time, rounds_per_second(self.machine, hash)?, self.header.key_bytes, 1)?;
        let by_way_of = self.free_slot().filter(|_| self.is_active(slot));
        if let Some(other) = by_way_of {
            self.write(other, &key, new, rounds)?;
        }
        if self.is_active(slot) {
            self.wipe(slot)?;
        }
        self.write(slot, &key, new, rounds)?;
        by_way_of.map_or(Ok(()), |other| self.wipe(other))
    }

    fn erase(&self, wanted: &SlotChange<'_>) -> Result<()> {
        let source = self.machine.source();
        if wanted.new_secret.is_some() {
            return Err(Error::usage("'new-secret' must not be given when erasing keyslots"));
        }
        if wanted.iter_time.is_some() {
            return Err(Error::usage("'iter-time' must not be given when erasing keyslots"));
        }
        let old = wanted.old_secret.map(|id| password(source, Some(id), "old-secret")).transpose()?;
        if let Some(slot) = wanted.check_slot()? {
            if let Some(old) = old
                && self.header.open_slot(source, self.device, self.offset, slot, old)?.is_none()
            {
                let text = format!("Given keyslot {slot} doesn't contain the given old password for erase operation");
                return Err(Error::usage(text));
            }
            if !self.is_active(slot) && !wanted.force {
                // (The blank at the end is the stock tool's.)
                return Err(Error::usage(format!("Given keyslot {slot} is already erased (inactive) ")));
            }
            if self.count() == 1 && !wanted.force {
                return Err(Error::usage(format!(
                    "Attempt to erase the only active keyslot {slot} which will erase all the data in the image irreversibly - \
                     refusing operation"
                )));
            }
            return self.wipe(slot);
        }
        let old = old.ok_or_else(|| {
            Error::usage(
                "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given",
            )
        })?;
        let mut found = Vec::new();
        for slot in (0..SLOTS).filter(|slot| self.is_active(*slot)) {
            if self.header.open_slot(source, self.device, self.offset, slot, old)?.is_some() {
                found.push(slot);
            }
        }
        if found.is_empty() {
            return Err(Error::usage("No keyslots match given (old) password for erase operation"));
        }
        if found.len() == self.count() && !wanted.force {
            return Err(Error::usage(
                "All the active keyslots match the (old) password that was given and erasing them will erase all the data in \
                 the image irreversibly - refusing operation",
            ));
        }
        found.into_iter().try_for_each(|slot| self.wipe(slot))
    }

    fn submit(&self, offset: FileOffset, data: &[u8]) -> Result<()> {
        let device = self.device;
        self.machine.submit(&[Step::Write { device, offset, data }, Step::Barrier { device }])
    }

    /// Where in the device a field of a slot is.
    fn field(&self, slot: usize, at: usize) -> FileOffset {
        self.offset.saturating_add((SLOTS_AT + slot * SLOT + at) as u64)
    }

    /// Has a free slot hold the key.
    fn write(&self, slot: usize, key: &[u8], password: &[u8], rounds: u32) -> Result<()> {
        let (scheme, hash) = (self.header.scheme()?, self.header.hash);
        let (salt, material) = seal(self.machine, scheme, hash, key, password, rounds)?;
        self.submit(self.material_at(slot), &material)?;
        let derivation = [&rounds.to_be_bytes()[..], &salt].concat();
        self.submit(self.field(slot, 4), &derivation)?;
        self.submit(self.field(slot, 0), &SLOT_ACTIVE.to_be_bytes())
    }

    /// Overwrites what a slot holds, and then it is free.
    fn wipe(&self, slot: usize) -> Result<()> {
        let mut noise = vec![0; self.header.material() as usize];
        self.machine.random(&mut noise);
        self.submit(self.material_at(slot), &noise)?;
        self.submit(self.field(slot, 0), &SLOT_FREE.to_be_bytes())?;
        // Rounds and salt.
        self.submit(self.field(slot, 4), &[0; 4 + SALT])
    }
}

/// Whether any of the options is given that are an inner header's.
#[must_use]
pub fn any_inside(options: &Options) -> bool {
    OPTIONS_INSIDE.iter().any(|option| options.get(option.name).is_some())
}

/// The secret that opens an image, kept for when its slots are to be changed.
#[derive(Clone, Debug, Default)]
pub struct Opener(Option<String>);

impl Opener {
    /// Of that name.
    #[must_use]
    pub fn of(secret: Option<&str>) -> Self {
        Self(secret.map(String::from))
    }

    /// What it opens with.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn password<'s>(&self, source: &'s dyn Source, option: &str) -> Result<&'s [u8]> {
        password(source, self.0.as_deref(), option)
    }
}
