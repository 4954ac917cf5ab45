//! How the user names an image: a plain file name, `--image-opts`, or `json:{...}`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use instar_abi::drivers::{is_format, is_protocol};
use instar_render::QemuVersion;

use crate::file_options::Ways;
use crate::given::{self, Given};

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
    /// Drivers between that one and the file, the lowest first.
    pub below: Vec<Below>,
    /// Files that are not (or other than) what the images name.
    pub given: Vec<Given>,
    /// The driver of its file, where one is said.
    pub protocol: Option<String>,
    /// How its file is opened.
    pub ways: Ways,
    /// What is wrong with what was said of further files: for a command that opens them to say so.
    pub wrong: Option<String>,
    /// "No backing file" was said by an empty word, which is deprecated.
    pub empty_backing: bool,
    /// Options (in full: `file.offset`) that were said as numbers, and are shown so.
    pub numbers: Vec<String>,
}

/// A driver below another: what is above it lies in the image that this one shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// The format.
    pub format: String,
    /// Its options.
    pub options: Vec<(String, String)>,
    /// Files that are not (or other than) what its image names.
    pub given: Vec<Given>,
}

impl ImageName {
    /// A file, whatever its name looks like.
    #[must_use]
    pub fn file(path: PathBuf, format: Option<String>) -> Self {
        Self {
            written: path.clone().into(),
            path,
            format,
            options: Vec::new(),
            below: Vec::new(),
            given: Vec::new(),
            protocol: None,
            ways: Ways::default(),
            wrong: None,
            empty_backing: false,
            numbers: Vec::new(),
        }
    }

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
            return from_json(name, &String::from_utf8_lossy(text), format, version);
        }
        let path = match (bytes.strip_prefix(b"file:"), protocol(bytes)) {
            (Some(b""), _) => return Err("The 'file' block driver requires a file name".to_string()),
            // What follows is the name of a file, whatever stands in it.
            (Some(path), _) if protocol(path).is_some() => Path::new(".").join(OsStr::from_bytes(path)),
            (Some(path), _) => OsStr::from_bytes(path).into(),
            (None, Some(word)) => return Err(format!("Unknown protocol '{}'", String::from_utf8_lossy(word))),
            (None, None) => name.into(),
        };
        Ok(Self { written: name.to_os_string(), ..Self::file(path, format) })
    }

    /// The same named as a backing file by the image `above`: a plain name is relative to that image's folder.
    #[must_use]
    pub fn beside(self, above: &Path) -> Self {
        let bytes = self.written.as_bytes();
        let alone = bytes.starts_with(b"json:") || bytes.starts_with(b"file:");
        match above.parent() {
            Some(folder) if !alone => Self { path: folder.join(&self.path), ..self },
            _ => self,
        }
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
        let pairs: Pairs = pairs.into_iter().map(|(k, v)| (k, v.unwrap_or_else(|| "on".into()))).collect();
        let empty_backing = pairs.iter().any(|(key, value)| is_backing(key) && value.is_empty());
        Ok(Self { empty_backing, ..from_pairs(text, pairs, version)? })
    }
}

/// What stands before a colon that comes before any slash.
fn protocol(name: &[u8]) -> Option<&[u8]> {
    let at = name.iter().position(|b| matches!(b, b':' | b'/'))?;
    (name[at] == b':').then(|| &name[..at])
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

/// `format`: what `-f` says, which counts more than what the name says.
fn from_json(name: &OsStr, text: &str, format: Option<String>, version: QemuVersion) -> Result<ImageName, String> {
    let value: serde_json::Value = serde_json::from_str(&double_quoted(text)).map_err(|e| {
        let what = version.json_error(e.is_eof(), e.line(), e.column() + 1);
        format!("Could not parse the JSON options: {what}")
    })?;
    if !value.is_object() {
        return Err("Invalid JSON object given".to_string());
    }
    let mut said = Said::default();
    said.flatten("", &value);
    let Said { mut pairs, empty_backing, numbers } = said;
    if let Some(format) = format {
        pairs.retain(|(key, _)| key != "driver");
        pairs.push(("driver".to_string(), format));
    }
    Ok(ImageName { empty_backing, numbers, ..from_pairs(name, pairs, version)? })
}

/// The text with all strings in double quotes: QEMU takes both kinds, and in each what is escaped of the other.
fn double_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (None, false);
    for c in text.chars() {
        match (inside, c) {
            (Some(_), '\'') if escaped => {
                out.pop();
                out.push(c);
            }
            (Some('\''), '"') if !escaped => out.push_str("\\\""),
            (None, '\'' | '"') => {
                inside = Some(c);
                out.push('"');
            }
            (Some(quote), _) if c == quote && !escaped => {
                inside = None;
                out.push('"');
            }
            _ => out.push(c),
        }
        escaped = inside.is_some() && c == '\\' && !escaped;
    }
    out
}

/// The option that says "no backing file", by null or by an empty word.
fn is_backing(key: &str) -> bool {
    key.rsplit('.').next() == Some("backing")
}

/// What a JSON name says.
#[derive(Default)]
struct Said {
    pairs: Pairs,
    empty_backing: bool,
    numbers: Vec<String>,
}

impl Said {
    /// The user's own words: their depth is his own affair, and the JSON parser bounds it.
    fn flatten(&mut self, prefix: &str, value: &serde_json::Value) {
        let text = match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    self.flatten(&key, value);
                }
                return;
            }
            serde_json::Value::Null if is_backing(prefix) => String::new(),
            serde_json::Value::String(text) => {
                self.empty_backing |= is_backing(prefix) && text.is_empty();
                text.clone()
            }
            serde_json::Value::Bool(b) => if *b { "on" } else { "off" }.to_string(),
            other => {
                self.numbers.push(prefix.to_string());
                other.to_string()
            }
        };
        self.pairs.push((prefix.to_string(), text));
    }
}

fn from_pairs(written: &OsStr, pairs: Pairs, version: QemuVersion) -> Result<ImageName, String> {
    let mut image = ImageName { written: written.to_os_string(), ..ImageName::file(PathBuf::new(), None) };
    let mut named = None;
    let driver = pairs.iter().any(|(key, value)| key == "driver" && value.parse::<f64>().is_err());
    let file = pairs.iter().any(|(key, _)| key.starts_with("file."));
    if !driver && !file {
        return Err("Must specify either driver or file".to_string());
    }
    let (mut here, mut lower) = parted(pairs);
    match given::take(&mut here, version) {
        Ok(given) => image.given = given,
        Err(wrong) if wrong.always => return Err(wrong.text),
        Err(wrong) => image.wrong = Some(wrong.text),
    }
    image.below = drivers_below(&mut lower, version)?;
    image.protocol = option(&lower, "driver");
    image.ways = Ways::read(&here, &lower, image.protocol.as_deref().unwrap_or("file"))?;
    if image.below.is_empty() {
        named = option(&here, "filename");
        here.retain(|(key, _)| key != "filename");
    }
    for (key, value) in here {
        match key.as_str() {
            "driver" => image.format = Some(value),
            _ => image.options.push((key, value)),
        }
    }
    image.path = option(&lower, "filename").or(named).ok_or(NO_FILE)?.into();
    Ok(image)
}

/// What is said of a driver without a file.
pub const NO_FILE: &str = "A block device must be specified for \"file\"";

/// Takes the drivers out of the options of a file; what is left is the file's own. The lowest driver comes first.
pub fn drivers_below(lower: &mut Pairs, version: QemuVersion) -> Result<Vec<Below>, String> {
    let mut below = Vec::new();
    while let Some(format) = option(lower, "driver").filter(|name| is_format(name)) {
        let (mut options, rest) = parted(std::mem::take(lower));
        let given = given::take(&mut options, version).map_err(|wrong| wrong.text)?;
        options.retain(|(key, _)| key != "driver");
        below.insert(0, Below { format, options, given });
        if rest.is_empty() {
            return Err(NO_FILE.to_string());
        }
        *lower = rest;
    }
    match option(lower, "driver").filter(|name| !is_protocol(name)) {
        Some(name) => Err(format!("Unknown driver '{name}'")),
        None => Ok(below),
    }
}

/// Options: key and value.
pub type Pairs = Vec<(String, String)>;

/// The options of a driver itself, and those of what is below it.
fn parted(pairs: Pairs) -> (Pairs, Pairs) {
    let (lower, here): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| key.starts_with("file."));
    let lower = lower.into_iter().map(|(key, value)| (key.replacen("file.", "", 1), value)).collect();
    (here, lower)
}

/// What the last option of that name says.
pub fn option(pairs: &[(String, String)], name: &str) -> Option<String> {
    pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone())
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
    fn json_in_either_kind_of_quotes() {
        for (text, path) in [
            ("{'driver':'raw','file':{'filename':'a'}}", "a"),
            ("{\"driver\":'raw','file.filename':'a\"b'}", "a\"b"),
            ("{'driver':'raw','file.filename':\"a'b\"}", "a'b"),
            (r"{'driver':'raw','file.filename':'a\'b\u0041\\'}", "a'bA\\"),
            (r#"{'driver':'raw','file.filename':"a\'\"b"}"#, "a'\"b"),
        ] {
            let image = ImageName::plain(OsStr::new(&format!("json:{text}")), None, QemuVersion::default());
            assert_eq!(image.map(|image| image.path), Ok(PathBuf::from(path)), "{text}");
        }
        let open = ImageName::plain(OsStr::new("json:{'driver':'raw"), None, QemuVersion::default());
        assert!(open.is_err());
    }

    #[test]
    fn a_file_may_have_a_colon_in_its_name() {
        let path = |name: &str| {
            let image = ImageName::plain(OsStr::new(name), None, QemuVersion::default());
            image.map(|image| image.path.into_os_string().into_string().expect("it is text"))
        };
        for (name, plain) in [("file:a", "a"), ("file:a:b", "./a:b"), ("file:/a:b", "/a:b"), ("./a:b", "./a:b")] {
            assert_eq!(path(name).as_deref(), Ok(plain));
        }
        assert_eq!(path("a:b"), Err("Unknown protocol 'a'".to_string()));
        assert!(path("file:").is_err());
    }

    #[test]
    fn drivers_below_each_other() {
        let text = "driver=qcow2,file.driver=luks,file.key-secret=s,file.file.driver=raw,file.file.file.filename=x";
        let image = ImageName::from_options(OsStr::new(text), QemuVersion::default()).expect("valid");
        let formats: Vec<&str> = image.below.iter().map(|below| below.format.as_str()).collect();
        assert_eq!((image.format.as_deref(), formats), (Some("qcow2"), vec!["raw", "luks"]));
        assert_eq!((image.path.as_path(), image.below_name(0)), (Path::new("x"), b"x".to_vec()));
        assert!(image.below_name(1).starts_with(b"json:{"));
        let none = ImageName::from_options(OsStr::new("driver=qcow2,file.driver=nbd"), QemuVersion::default());
        assert_eq!(none, Err("Unknown driver 'nbd'".into()));
    }

    #[test]
    fn other_backing_files() {
        let text = "driver=qcow2,file.filename=x,backing.backing.file.filename=y,backing.backing.file.driver=file";
        let image = ImageName::from_options(OsStr::new(text), QemuVersion::default()).expect("valid");
        let [file] = &image.given[..] else { panic!("one is named") };
        assert_eq!((file.place, file.role, file.path.as_path()), (2, given::Role::Image, Path::new("y")));
        assert!(!image.empty_backing);
        let json = |backing| format!(r#"json:{{"file":{{"filename":"x"}},"backing":{backing}}}"#);
        for (backing, is_empty) in [("null", false), ("\"\"", true)] {
            let name = json(backing);
            let image = ImageName::plain(OsStr::new(&name), None, QemuVersion::default()).expect("valid");
            assert_eq!((image.options, image.empty_backing), (vec![("backing".into(), String::new())], is_empty));
        }
    }

    #[test]
    fn a_backing_file_is_beside_the_image_that_names_it() {
        let beside = |name: &str| {
            let plain = ImageName::plain(OsStr::new(name), None, QemuVersion::default()).expect("valid");
            plain.beside(Path::new("dir/x")).path
        };
        assert_eq!(beside("a"), PathBuf::from("dir/a"));
        assert_eq!(beside("/a"), PathBuf::from("/a"));
        assert_eq!(beside(r#"json:{"file":{"filename":"a"}}"#), PathBuf::from("a"));
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
