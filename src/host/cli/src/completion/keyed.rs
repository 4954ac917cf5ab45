//! Lists of `key=value`, with commas between them.

use instar_abi::drivers;

use super::{Next, Offer};

/// What may be written at the end of such a list. `keys`: each with what it is; `value`: what a key may be.
pub fn list(word: &str, keys: &[(String, String)], value: impl Fn(&str) -> Next) -> Offer {
    let begun = word.rsplit(',').next().unwrap_or_default();
    let done = &word[..word.len() - begun.len()];
    if let Some((key, typed)) = begun.split_once('=') {
        return Offer::of(value(key)).behind(&word[..word.len() - typed.len()]);
    }
    let is_given = |key: &str| done.split(',').any(|pair| pair.split('=').next() == Some(key));
    let open = keys.iter().filter(|(key, _)| !is_given(key));
    Offer::of(Next::Words(open.map(|(key, about)| (format!("{key}="), about.clone())).collect())).behind(done)
}

fn named(keys: &[(&str, &str)]) -> Vec<(String, String)> {
    keys.iter().map(|(key, about)| ((*key).to_string(), (*about).to_string())).collect()
}

/// `--object`.
pub fn secret(word: &str) -> Offer {
    let keys = named(&[
        ("id", "by which options name it"),
        ("file", "the file that it is in"),
        ("data", "the secret itself: others can see it"),
        ("format", "raw or base64"),
        ("keyid", "the secret that it is encrypted with"),
        ("iv", "what that encryption began with"),
    ]);
    let Some(rest) = word.strip_prefix("secret,") else { return Offer::of(Next::plain(["secret,id="])) };
    let value = |key: &str| match key {
        "file" => Next::File,
        "format" => Next::plain(["raw", "base64"]),
        _ => Next::nothing(),
    };
    list(rest, &keys, value).behind("secret,")
}

/// An image by its options.
pub fn image_options(word: &str, secrets: Vec<String>) -> Offer {
    let keys = named(&[
        ("driver", "the image's format"),
        ("file.filename", "the file that it is in"),
        ("key-secret", "the secret of a luks image"),
        ("encrypt.key-secret", "the secret of a qcow2 image"),
        ("backing.file.filename", "what it stands on"),
    ]);
    list(word, &keys, |key| match key {
        _ if key.ends_with("driver") => Next::plain(drivers::names()),
        _ if key.ends_with("filename") => Next::File,
        _ if key.ends_with("key-secret") => Next::plain(&secrets),
        _ => Next::nothing(),
    })
}

/// The operands of `dd`.
pub fn block(word: &str) -> Offer {
    let keys = named(&[
        ("if", "the image that is read"),
        ("of", "the image that is made"),
        ("bs", "the length of a block"),
        ("count", "how many blocks"),
        ("skip", "how many blocks are left out first"),
    ]);
    match word.split_once('=') {
        Some((key @ ("if" | "of"), _)) => Offer::of(Next::File).behind(&format!("{key}=")),
        Some(_) => Offer::of(Next::nothing()),
        None => list(word, &keys, |_| Next::nothing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pair_is_completed_and_the_others_stay() {
        let keys = named(&[("a", "x"), ("b", "y")]);
        let value = |key: &str| Next::plain([format!("{key}1")]);
        assert_eq!(list("", &keys, value).lines(""), "words\n\na=\tx\nb=\ty\n");
        assert_eq!(list("a=1,", &keys, value).lines("a=1,"), "words\na=1,\nb=\ty\n");
        assert_eq!(list("a=1,b=", &keys, value).lines("a=1,b="), "words\na=1,b=\nb1\t\n");
    }

    #[test]
    fn a_secret_is_in_a_file() {
        assert_eq!(secret("secret,id=x,file=k"), Offer::of(Next::File).behind("secret,id=x,file="));
        assert_eq!(secret("s").lines("s"), "words\n\nsecret,id=\t\n");
    }
}
