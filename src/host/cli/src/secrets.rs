//! `--object secret,..`: what the user's secrets are, read before the host half locks itself down.
//!
//! The bytes go to the guest as a parameter and are wiped here as soon as they are handed over. Until then no other process
//! has them, not even one that this one makes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use aes::Aes256Dec;
use aes::cipher::{Array, BlockCipherDecrypt, KeyInit};
use instar_abi::ops;
use instar_abi::record::Value;
use instar_render::QemuVersion;
use instar_vmm::Secret;
use zeroize::{Zeroize, Zeroizing};

use crate::program::plain;

/// Objects that the stock tool makes and that no image needs.
const IDLE: &[&str] = &["authz-simple", "authz-list", "authz-list-file", "throttle-group", "main-loop", "iothread"];
const PROPERTIES: [&str; 5] = ["data", "file", "format", "keyid", "iv"];
const KEY: usize = 32;
const BLOCK: usize = 16;

/// The secrets, by name.
#[derive(Debug, Default)]
pub struct Secrets {
    /// Arguments that nobody has looked at yet.
    given: Vec<Secret>,
    entries: Vec<(String, Secret)>,
}

fn secret(bytes: &[u8]) -> Result<Secret, String> {
    Secret::new(bytes).map_err(|error| format!("cannot keep a secret: {}", plain(&error)))
}

impl Secrets {
    /// What `--object` was given, each time.
    ///
    /// # Errors
    /// The kernel's, in words.
    pub fn given(objects: Vec<OsString>) -> Result<Self, String> {
        for object in &objects {
            // Best effort: without /proc nobody looks there, either.
            let _ = hide(object.as_bytes());
        }
        let given = objects.iter().map(|object| secret(object.as_bytes())).collect::<Result<_, _>>()?;
        Ok(Self { given, entries: Vec::new() })
    }

    /// Reads them.
    ///
    /// # Errors
    /// In qemu-img's words.
    pub fn read(&mut self, version: QemuVersion) -> Result<(), String> {
        let given = std::mem::take(&mut self.given);
        given.iter().try_for_each(|object| self.add(OsStr::from_bytes(object), version))
    }

    /// Reads the argument of one `--object`.
    ///
    /// # Errors
    /// In qemu-img's words.
    fn add(&mut self, object: &OsStr, version: QemuVersion) -> Result<(), String> {
        let mut object = Object::parse(&object.to_string_lossy(), version)?;
        let kind = object.take("qom-type").ok_or("Parameter 'qom-type' is missing")?;
        let known = kind == "secret" || kind == "secret_keyring" || IDLE.contains(&kind.as_str());
        if !known && version.has_typed_objects() {
            return Err(version.bad_object(&kind));
        }
        let id = object.take("id").ok_or("Parameter 'id' is missing")?;
        if !is_identifier(&id) {
            return Err(
                "Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', \
                        starting with a letter."
                    .to_string(),
            );
        }
        if !known {
            return Err(version.bad_object(&kind));
        }
        if kind == "secret_keyring" {
            return Err("instar does not read secrets from the kernel's keyring".to_string());
        }
        if kind != "secret" {
            return Ok(());
        }
        if let Some((name, _)) = object.pairs.iter().find(|(name, _)| !PROPERTIES.contains(&name.as_str())) {
            return Err(version.unexpected_property(&kind, name));
        }
        let base64 = match object.take("format").as_deref() {
            None | Some("raw") => false,
            Some("base64") => true,
            Some(other) => return Err(version.bad_choice("format", other)),
        };
        if self.get(&id).is_some() {
            return Err(version.duplicate_object(&id));
        }
        let data = self.content(&mut object, base64)?;
        self.entries.push((id, secret(&data)?));
        Ok(())
    }

    fn get(&self, id: &str) -> Option<&[u8]> {
        self.entries.iter().find(|(name, _)| name == id).map(|(_, data)| &**data)
    }

    fn content(&self, object: &mut Object, base64: bool) -> Result<Zeroizing<Vec<u8>>, String> {
        let stored = match (object.take("data"), object.take("file")) {
            (Some(mut data), None) => {
                let bytes = Zeroizing::new(data.as_bytes().to_vec());
                data.zeroize();
                bytes
            }
            (None, Some(file)) => read(&file)?,
            (Some(_), Some(_)) => return Err("'file' and 'data' are mutually exclusive".to_string()),
            (None, None) => return Err("Either 'file' or 'data' must be provided".to_string()),
        };
        let Some(key_id) = object.take("keyid") else {
            return if base64 { from_base64(&stored) } else { Ok(stored) };
        };
        let key = self.get(&key_id).ok_or_else(|| format!("No secret with id '{key_id}'"))?;
        let Ok(key) = <[u8; KEY]>::try_from(key) else {
            return Err(format!("Key should be {KEY} bytes in length not {}", key.len()));
        };
        let iv = object.take("iv").ok_or("IV is required to decrypt secret")?;
        let iv = from_base64(iv.as_bytes())?;
        let Ok(iv) = <[u8; BLOCK]>::try_from(iv.as_slice()) else {
            return Err(format!("IV should be {BLOCK} bytes in length not {}", iv.len()));
        };
        let stored = if base64 { from_base64(&stored)? } else { stored };
        decrypt(&Zeroizing::new(key), iv, stored)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// As a parameter of the guest; what is here is wiped.
    pub fn hand_over(&mut self) -> Vec<ops::Secret> {
        self.entries.drain(..).map(|(id, data)| ops::Secret { id, data: data.to_vec() }).collect()
    }
}

/// The kernel shows a program's arguments to everybody (`ps`): from here on not the secret in them.
fn hide(object: &[u8]) -> io::Result<()> {
    const DATA: &[u8] = b"data=";
    /// Where they begin: behind the name in brackets, with the field behind it counted from 0.
    const ARG_START: usize = 45;
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|part| part == what);
    let visible = match find(object, DATA) {
        Some(at) => at + DATA.len(),
        None if object.starts_with(b"{") => 1,
        None => return Ok(()),
    };
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let start = fields.split_ascii_whitespace().nth(ARG_START).and_then(|field| field.parse::<u64>().ok());
    let arguments = std::fs::read("/proc/self/cmdline")?;
    if let (Some(start), Some(at)) = (start, find(&arguments, object)) {
        let memory = File::options().write(true).open("/proc/self/mem")?;
        memory.write_all_at(&vec![b'x'; object.len() - visible], start + (at + visible) as u64)?;
    }
    Ok(())
}

/// Wipes the secrets in parameters that [`Secrets::hand_over`] made.
pub fn wipe(value: &mut Value) {
    match value {
        Value::Bytes(bytes) => bytes.zeroize(),
        Value::List(items) => items.iter_mut().for_each(wipe),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| wipe(value)),
        _ => {}
    }
}

/// The words of an object, `qom-type` among them.
struct Object {
    pairs: Vec<(String, String)>,
}

impl Object {
    fn parse(text: &str, version: QemuVersion) -> Result<Self, String> {
        if text.starts_with('{') && version.has_typed_objects() {
            return Self::from_json(text, version);
        }
        let hidden = text.replace(",,", "\0");
        let mut pairs = Vec::new();
        for (i, word) in hidden.split(',').enumerate() {
            let word = word.replace('\0', ",");
            match word.split_once('=') {
                Some((key, value)) => pairs.push((key.to_string(), value.to_string())),
                None if word.is_empty() => {}
                None if i == 0 => pairs.push(("qom-type".to_string(), word)),
                None if version.has_typed_objects() => {
                    let key = word.split(',').next().unwrap_or_default();
                    return Err(format!("Expected '=' after parameter '{key}'"));
                }
                None => pairs.push((word, "on".to_string())),
            }
        }
        Ok(Self { pairs })
    }

    fn from_json(text: &str, version: QemuVersion) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|e| version.json_error(e.is_eof(), e.line(), e.column() + 1))?;
        let mut pairs = Vec::new();
        for (key, value) in value.as_object().into_iter().flatten() {
            let Some(text) = value.as_str() else {
                return Err(format!("Invalid parameter type for '{key}', expected: string"));
            };
            pairs.push((key.clone(), text.to_string()));
        }
        Ok(Self { pairs })
    }

    /// The last value of that key; all are taken out.
    fn take(&mut self, key: &str) -> Option<String> {
        let mut found = None;
        while let Some(at) = self.pairs.iter().position(|(k, _)| k == key) {
            found = Some(self.pairs.remove(at).1);
        }
        found
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.pairs.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

fn is_identifier(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

fn read(path: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    std::fs::read(path).map(Zeroizing::new).map_err(|error| {
        let what = if error.kind() == ErrorKind::IsADirectory { "Error reading" } else { "Failed to open" };
        format!("Unable to read {path}: {what} file “{path}”: {}", plain(&error))
    })
}

/// Base64 as GLib reads it: white space is passed over, and what is left at the end without making up a whole group
/// is dropped.
fn from_base64(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let (mut group, mut count, mut padding) = (0u32, 0, 0);
    for byte in text.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')) {
        match digit(byte) {
            Some(value) => group = group << 6 | u32::from(value),
            None if byte == b'=' => (group, padding) = (group << 6, padding + 1),
            None => return Err("Base64 data contains invalid characters".to_string()),
        }
        count += 1;
        if count == 4 {
            let [_, bytes @ ..] = group.to_be_bytes();
            out.extend_from_slice(bytes.get(..3 - padding.min(2)).unwrap_or_default());
            (group, count, padding) = (0, 0, 0);
        }
    }
    Ok(out)
}

/// AES-256 in CBC mode, with padding as PKCS #7 has it.
fn decrypt(key: &[u8; KEY], iv: [u8; BLOCK], mut data: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, String> {
    let (blocks, rest) = data.as_chunks_mut::<BLOCK>();
    if !rest.is_empty() {
        return Err(format!("Length {} must be a multiple of block size {BLOCK}", data.len()));
    }
    let cipher = Aes256Dec::new(&Array::from(*key));
    let mut before = iv;
    for block in blocks {
        let stored = *block;
        cipher.decrypt_block(block.into());
        block.iter_mut().zip(before).for_each(|(byte, mask)| *byte ^= mask);
        before = stored;
    }
    let padding = data.last().copied().map_or(0, usize::from);
    if padding > BLOCK {
        return Err(format!("Incorrect number of padding bytes ({padding}) found on decrypted data"));
    }
    let len = data.len().saturating_sub(padding);
    data.truncate(len);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(objects: &[&str]) -> Result<Vec<u8>, String> {
        let mut secrets = Secrets::default();
        for object in objects {
            secrets.add(OsStr::new(object), QemuVersion::default())?;
        }
        Ok(secrets.get("s").unwrap_or_default().to_vec())
    }

    #[test]
    fn a_secret_is_given_as_it_is_or_in_base64() {
        assert_eq!(add(&["secret,id=s,data=a,,b"]), Ok(b"a,b".to_vec()));
        assert_eq!(add(&["secret,id=s,data=YWJj,format=base64"]), Ok(b"abc".to_vec()));
        assert_eq!(add(&["secret,id=s,data=YWI=,format=base64"]), Ok(b"ab".to_vec()));
        assert_eq!(add(&[r#"{"qom-type":"secret","id":"s","data":"x"}"#]), Ok(b"x".to_vec()));
        assert_eq!(
            add(&["secret,id=s,data=a b,format=base64"]),
            Err("Base64 data contains invalid characters".to_string())
        );
    }

    /// Encrypted by `openssl enc -aes-256-cbc` with a key of 32 letters `k`.
    #[test]
    fn a_secret_may_be_encrypted_by_another() {
        let key = format!("secret,id=k,data={}", "k".repeat(KEY));
        let object = "secret,id=s,keyid=k,iv=MDEyMzQ1Njc4OWFiY2RlZg==,format=base64,data=L3/qcmFn0bUtnGPlRO5NCQ==";
        assert_eq!(add(&[&key, object]), Ok(b"abc".to_vec()));
        assert_eq!(add(&[object]), Err("No secret with id 'k'".to_string()));
    }
}
