//! Images that are made, and read again.

use instar_format_luks::Luks;
use instar_image::options::Options;
use instar_image::write::Target;
use instar_image::{
    CreateContext, DeviceId, Format, Image, Machine as _, OpenContext, Place, Purpose, Sink, Source, Step, Version,
};
use instar_sim::Machine;

const SIZE: u64 = 1 << 20;
const FIXED: &str = "key-secret=s,iter-time=1";

fn options(text: &str) -> Options {
    Options::parse(&[text], Luks.create_options(), &|_| "").expect("they are known")
}

fn context<'a, 'n>(machine: &'a Machine, device: DeviceId, options: &'n Options) -> CreateContext<'a, 'n> {
    CreateContext {
        machine,
        device,
        name: b"disk",
        parent: None,
        data_device: None,
        size: SIZE,
        options,
        backing: None,
        compressed: false,
        version: Version::default(),
    }
}

fn open<'a>(machine: &'a Machine, device: DeviceId, secret: &str) -> instar_image::Result<Box<dyn Image + 'a>> {
    let options = [("key-secret".to_string(), secret.to_string())];
    Luks.open(OpenContext {
        source: machine.source(),
        opener: Some(machine),
        device,
        name: b"disk",
        version: Version::default(),
        purpose: Purpose::Read,
        options: &options,
    })
}

fn refusal(text: &str) -> String {
    let machine = Machine::new().with_secret("s", "open sesame");
    let device = machine.add_writable([]);
    let options = options(text);
    let creator = Luks.creator().expect("it is written");
    let error = creator.create(context(&machine, device, &options)).map(|_| ()).expect_err("it is refused");
    error.message
}

#[test]
fn what_is_written_is_read_with_the_password_alone() {
    for more in ["", ",cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv", ",cipher-alg=aes-192,cipher-mode=cbc"] {
        let machine = Machine::new().with_secret("s", "open sesame").with_secret("wrong", "open barley");
        let device = machine.add_writable([]);
        let options = options(&format!("{FIXED}{more}"));
        let writer = Luks.creator().expect("it is written").create(context(&machine, device, &options));
        let writer = writer.unwrap_or_else(|e| panic!("{more}: {e}"));
        let Target::LinearEncrypted { base, .. } = writer.target() else { panic!("{:?}", writer.target()) };
        let plain: Vec<u8> = (0..SIZE as u32).map(|i| (i / 3) as u8).collect();
        let mut data = plain.clone();
        writer.encrypter().expect("it encrypts").encrypt(0, base, &mut data);
        assert!(data != plain);
        machine.submit(&[Step::Write { device, offset: base, data: &data }]).expect("it is there");
        assert!(open(&machine, device, "s").is_err(), "without its header it is no image");
        writer.finish().expect("all is well");

        let image = open(&machine, device, "s").unwrap_or_else(|e| panic!("{more}: {e}"));
        assert_eq!(image.virtual_size(), SIZE);
        let extent = image.extent(0, SIZE).expect("it is there");
        assert_eq!(extent.place, Place::Encrypted { device, offset: base });
        machine.read(device, base, &mut data).expect("it is there");
        image.decoder().expect("it decrypts").decrypt(0, base, &mut data).expect("it has its key");
        assert!(data == plain, "{more}");
        let error = open(&machine, device, "wrong").map(|_| ()).expect_err("another password");
        assert_eq!(error.message, "Invalid password, cannot unlock any keyslot");
    }
}

#[test]
fn no_two_keys_and_salts_are_the_same() {
    let machine = Machine::new().with_secret("s", "open sesame");
    let options = options(FIXED);
    let heads = [(); 2].map(|()| {
        let device = machine.add_writable([]);
        let writer = Luks.creator().expect("it is written").create(context(&machine, device, &options));
        writer.and_then(|writer| writer.finish()).expect("all is well");
        machine.disk(device).to_bytes()
    });
    // The digest of the key with its salt; the uuid; the first slot's salt; key material.
    for range in [112..132, 132..164, 168..208, 216..248, 4096..4160] {
        assert_ne!(heads[0][range.clone()], heads[1][range.clone()], "{range:?}");
    }
}

// Expected texts: what `qemu-img create` (10.0.2) says.
#[test]
fn what_cannot_be_is_told() {
    for (text, says) in [
        ("cipher-alg=foo", "Parameter 'cipher-alg' does not accept value 'foo'"),
        ("cipher-alg=3des", "Parameter 'key-secret' is required for cipher"),
        ("key-secret=s,cipher-alg=3des", "Algorithm '3des' not supported"),
        ("key-secret=s,cipher-alg=cast5-128", "Unsupported cipher mode xts"),
        ("key-secret=nosuch", "No secret with id 'nosuch'"),
        ("key-secret=s,detached-header=on", "Parameter 'detached-header' is unexpected"),
        ("cipher-alg=foo,preallocation=foo", "invalid parameter value: foo"),
    ] {
        assert_eq!(refusal(text), says, "{text}");
    }
    assert!(refusal("key-secret=s,iter-time=-1").ends_with("too large to scale: Numerical result out of range"));
}
