//! Layers, pins, and what is wrong in a file.

use super::*;

pub fn config(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Config, String> {
    let mut config = Config::default();
    for (name, text) in files {
        config.said.append(&mut document::read(Path::new(name), text, *name == "system")?);
    }
    config.read_variables(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()));
    config.check()?;
    Ok(config)
}

fn origin(config: &Config, key: &str) -> String {
    let places: Vec<String> = config.in_force(key).iter().map(|said| said.origin.to_string()).collect();
    if places.is_empty() { Origin::Default.to_string() } else { places.join(", ") }
}

#[test]
fn a_later_place_replaces_what_an_earlier_one_says_and_folders_add_up() {
    let system = "isolation = 'process'\n[backing]\nallow = ['/etc', '/usr']\n[limits]\nseconds = 5\n";
    let user = "[backing]\nallow = '/tmp'\nnone = true\n";
    let config = config(&[("system", system), ("user", user)], &[("INSTAR_ALLOW_BACKING", "/a::/b")]).expect("valid");
    assert_eq!(config.isolation(), Ok(Isolation::Process));
    assert_eq!(config.allowed(), ["/etc", "/usr", "/tmp", "/a", "/b"].map(PathBuf::from));
    assert_eq!(config.flag("backing.none"), Ok(true));
    assert_eq!(config.seconds("limits.seconds"), Ok(Some(Duration::from_secs(5))));
    assert_eq!(origin(&config, "isolation"), "system");
    assert_eq!(origin(&config, "backing.allow"), "system, user, INSTAR_ALLOW_BACKING");
    assert_eq!(origin(&config, "extensions"), "default");
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_its_name() {
    let told = |text: &str| document::read(Path::new("f"), text, true).expect_err("wrong");
    assert!(told("isolation = 'x").starts_with("f: TOML parse error at line 1"));
    for (text, expected) in [
        ("[limits]\nnosuch = 1", "f: there is no setting 'limits.nosuch'"),
        ("isolation = 1.5", "f: 'isolation' has a value of the wrong type"),
        ("isolation = ['kvm']", "f: 'isolation' has a value of the wrong type: it takes one, not a list"),
        ("isolation = 'moon'", "f: isolation: 'moon' is none of auto, kvm, process"),
        ("[backing]\nallow = 'x/y'", "f: backing.allow: 'x/y' is not an absolute path"),
        ("[backing]\nallow = ['/etc', '~/x']", "f: backing.allow: '~/x' begins with '~', which only a shell knows"),
        ("[backing]\nallow = '/no/such/folder'", "f: backing.allow: '/no/such/folder' is not there"),
        ("[backing]\nallow = '/etc/passwd'", "f: backing.allow: '/etc/passwd' is not a directory"),
        ("pinned = ['moon']", "f: there is no setting 'moon' to be pinned"),
        ("pinned = ['isolation']", "f: 'isolation' is pinned and has no value here"),
    ] {
        assert_eq!(told(text), expected);
    }
    let of_a_user = document::read(Path::new("f"), "pinned = ['isolation']\nisolation = 'kvm'", false);
    assert_eq!(of_a_user.err().as_deref(), Some("f: 'pinned' is for the system's file"));
}

#[test]
fn a_pinned_setting_may_be_made_stricter_and_never_looser() {
    for (pinned, variable, stricter, looser) in [
        ("isolation = 'auto'", "INSTAR_ISOLATION", "kvm", "process"),
        ("isolation = 'kvm'", "INSTAR_ISOLATION", "kvm", "auto"),
        ("limits.seconds = 60", "INSTAR_MAX_SECONDS", "59", "61"),
        ("limits.cpu-seconds = 60", "INSTAR_MAX_CPU_SECONDS", "1", "61"),
        ("limits.requests = 60", "INSTAR_MAX_REQUESTS", "60", "61"),
        ("limits.guest-memory = '64M'", "INSTAR_MAX_GUEST_MEMORY", "65535K", "1G"),
        ("limits.output-growth = '1G'", "INSTAR_MAX_OUTPUT_GROWTH", "1G", "2G"),
        ("backing.none = true", "INSTAR_NO_BACKING", "1", "0"),
        ("backing.none = false", "INSTAR_NO_BACKING", "true", ""),
        ("qemu-version = '10.0.2'", "INSTAR_QEMU_VERSION", "10.0.2", "9.0.0"),
        ("extensions = false", "INSTAR_EXTENSIONS", "false", "true"),
        ("backing.allow = '/usr'", "INSTAR_ALLOW_BACKING", "/usr/lib:/usr", "/usr/../etc"),
        ("backing.allow = []", "INSTAR_ALLOW_BACKING", "", "/usr"),
    ] {
        let key = pinned.split(' ').next().unwrap_or_default();
        let system = format!("pinned = ['{key}']\n{pinned}\n");
        let with = |value| config(&[("system", &system)], &[(variable, value)]);
        assert!(with(stricter).is_ok(), "{pinned}: {stricter}");
        if !looser.is_empty() {
            let told = with(looser).expect_err("looser");
            let expected = format!("by system; {variable} may not loosen it to {looser}");
            assert!(told.starts_with(&format!("{key} is pinned to ")) && told.ends_with(&expected), "{told}");
        }
    }
}

#[test]
fn a_user_file_may_not_loosen_either_and_adds_no_folder_to_pinned_ones() {
    let system = "pinned = ['backing.allow']\nbacking.allow = ['/usr']\n";
    let told = config(&[("system", system), ("user", "backing.allow = '/etc'")], &[]).err();
    assert_eq!(told.as_deref(), Some("backing.allow is pinned to /usr by system; user may not loosen it to /etc"));
    // One below adds nothing: it could be a link that leads elsewhere.
    let below = config(&[("system", system), ("user", "backing.allow = '/usr/lib'")], &[]).expect("stricter");
    assert_eq!(below.allowed(), [PathBuf::from("/usr")]);
}

#[test]
fn every_default_is_what_holds() {
    let none = Config::default();
    let default = |key| by_key(key).map_or(String::new(), Setting::unsaid_in_words);
    assert_eq!(none.version().map(|v| v.to_string()).as_deref(), Ok(default("qemu-version").as_str()));
    assert_eq!(none.isolation(), Ok(Isolation::Auto));
    assert_eq!(elements(Kind::Folders, "/a::/b".into()), ["/a", "/b"]);
    assert_eq!(elements(Kind::Isolation, "a:b".into()), ["a:b"]);
}
