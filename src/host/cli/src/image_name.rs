//! How the user names an image: a plain file name, `--image-opts`, or `json:{...}`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use instar_abi::record::Value;
use instar_render::QemuVersion;

/// A named image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// As the user wrote it: what `Could not open '...'` shows.
    pub written: OsString,
    /// The file.
    pub path: PathBuf,
    /// The format, where the name says it.
    pub format: Option<String>,
    /// Options for the format driver: dotted key, value.
    pub options: Vec<(String, String)>,
}

impl ImageName {
    /// A plain name, with the format that `-f` says.
    ///
    /// # Errors
    /// In qemu-img's words, without `Could not open`.
    pub fn plain(name: &OsStr, format: Option<String>, version: QemuVersion) -> Result<Self, String> {
        let bytes = name.as_bytes();
        if bytes.is_empty() {
            return Err("The 'file' block driver requires a file name".to_string());
        }
        if let Some(text) = bytes.strip_prefix(b"json:") {
            let mut image = from_json(name, &String::from_utf8_lossy(text), version)?;
            image.format = image.format.or(format);
            return Ok(image);
        }
        let path = bytes.strip_prefix(b"file:").unwrap_or(bytes);
        let protocol = path.iter().position(|b| matches!(b, b':' | b'/')).filter(|at| path[*at] == b':');
        if let Some(at) = protocol {
            return Err(format!("Unknown protocol '{}'", String::from_utf8_lossy(&path[..at])));
        }
        let path = OsStr::from_bytes(path).into();
        Ok(Self { written: name.to_os_string(), path, format, options: Vec::new() })
    }

    /// `--image-opts`: `driver=qcow2,file.filename=x`.
    ///
    /// # Errors
    /// In qemu-img's words, without `Could not open`.
    pub fn from_options(text: &OsStr, version: QemuVersion) -> Result<Self, String> {
        let pairs = split(&text.to_string_lossy());
        if let [(word, value)] = &pairs[..]
            && value.is_none()
        {
            return Err(version.no_node(word));
        }
        from_pairs(text, pairs.into_iter().map(|(k, v)| (k, v.unwrap_or_else(|| "on".into()))).collect())
    }
}

/// Options that change what an image holds: one opened with them is not the file alone, and is shown so.
const TELLING: [&str; 4] = ["offset", "size", "key-secret", "encrypt.key-secret"];

impl ImageName {
    /// The name under which `info` shows the image, if the file's own name does not say all: `json:{..}`.
    #[must_use]
    pub fn with_options(&self, format: &str) -> Option<String> {
        let telling: Vec<_> = self.options.iter().filter(|(key, _)| TELLING.contains(&key.as_str())).collect();
        if telling.is_empty() {
            return None;
        }
        let mut file = Value::map();
        file.set("driver", "file").set("filename", self.path.as_os_str().as_encoded_bytes());
        let mut all = Value::map();
        all.set("driver", format).set("file", file);
        for (key, value) in telling {
            all.set(key, value.as_str());
        }
        Some(format!("json:{}", instar_render::json_line(&all)))
    }
}

/// Splits at single commas; two are one in a value.
fn split(text: &str) -> Vec<(String, Option<String>)> {
    text.replace(",,", "\0")
        .split(',')
        .filter(|word| !word.is_empty())
        .map(|word| {
            let word = word.replace('\0', ",");
            match word.split_once('=') {
                Some((key, value)) => (key.to_string(), Some(value.to_string())),
                None => (word, None),
            }
        })
        .collect()
}

fn from_json(name: &OsStr, text: &str, version: QemuVersion) -> Result<ImageName, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| {
        let what = version.json_error(e.is_eof(), e.line(), e.column() + 1);
        format!("Could not parse the JSON options: {what}")
    })?;
    if !value.is_object() {
        return Err("Invalid JSON object given".to_string());
    }
    let mut pairs = Vec::new();
    flatten("", &value, &mut pairs);
    from_pairs(name, pairs)
}

/// The user's own words: their depth is his own affair, and the JSON parser bounds it.
fn flatten(prefix: &str, value: &serde_json::Value, pairs: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, pairs);
            }
        }
        serde_json::Value::String(text) => pairs.push((prefix.to_string(), text.clone())),
        serde_json::Value::Bool(b) => pairs.push((prefix.to_string(), if *b { "on" } else { "off" }.to_string())),
        other => pairs.push((prefix.to_string(), other.to_string())),
    }
}

fn from_pairs(written: &OsStr, pairs: Vec<(String, String)>) -> Result<ImageName, String> {
    let mut image =
        ImageName { written: written.to_os_string(), path: PathBuf::new(), format: None, options: Vec::new() };
    let mut named = None;
    let driver = pairs.iter().any(|(key, value)| key == "driver" && value.parse::<f64>().is_err());
    let file = pairs.iter().any(|(key, _)| key.starts_with("file."));
    if !driver && !file {
        return Err("Must specify either driver or file".to_string());
    }
    for (key, value) in pairs {
        match key.as_str() {
            "driver" | "file.driver" if matches!(value.as_str(), "file" | "host_device") => {}
            "driver" => image.format = Some(value),
            "file.driver" => return Err(format!("Unknown driver '{value}'")),
            "filename" | "file.filename" => named = Some(value),
            // Locking and caching are this program's own affair.
            _ if key.starts_with("file.") || matches!(key.as_str(), "read-only" | "force-share") => {}
            _ => image.options.push((key, value)),
        }
    }
    image.path = named.ok_or("A block device must be specified for \"file\"")?.into();
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_json_name_the_same_image() {
        let a = ImageName::from_options(
            OsStr::new("driver=qcow2,file.filename=a,,b,data-file.filename=c"),
            QemuVersion::default(),
        )
        .expect("valid");
        let json = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"a,b"},"data-file":{"filename":"c"}}"#;
        let b = ImageName::plain(OsStr::new(json), None, QemuVersion::default()).expect("valid");
        assert_eq!((&a.path, &a.format, &a.options), (&b.path, &b.format, &b.options));
        assert_eq!(a.path, PathBuf::from("a,b"));
    }

    #[test]
    fn a_protocol_is_no_file() {
        let plain = |name: &str| ImageName::plain(OsStr::new(name), None, QemuVersion::default());
        assert_eq!(plain("nbd:x"), Err("Unknown protocol 'nbd'".into()));
        assert!(plain("./nbd:x").is_ok());
        assert_eq!(plain("file:x").expect("valid").path, PathBuf::from("x"));
        assert_eq!(plain("json:[]"), Err("Invalid JSON object given".into()));
        assert_eq!(plain("json:{}"), Err("Must specify either driver or file".into()));
    }
}
