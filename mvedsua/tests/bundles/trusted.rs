//! What the agent asks of a bundle before it looks into it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use minisign::KeyPair;
use mvedsua::dsu::{self, Bundle, DsuError, PublicKey, trusted};

use super::victim::Pair;

fn bundle() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| Pair::new(&["basic.c"], &[]).bundle())
}

/// Another one, to be told apart.
fn other() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| Pair::new(&["tables.c"], &[]).bundle())
}

/// A folder with a bundle in it, by its real path.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder
        .path()
        .canonicalize()
        .expect("it exists")
        .join("a.mvu");
    bundle().write(&path).expect("writable");
    (folder, path)
}

fn code(path: &Path, keys: &[PublicKey]) -> &'static str {
    trusted::read(path, keys)
        .expect_err("not to be taken")
        .code()
}

/// Writes a new secret key; returns its path and the public key.
fn key(folder: &Path, name: &str) -> (PathBuf, PublicKey) {
    let pair = KeyPair::generate_unencrypted_keypair().expect("random numbers");
    let path = folder.join(name);
    let text = pair.sk.to_box(None).expect("a key").into_string();
    fs::write(&path, text).expect("writable");
    let public = pair.pk.to_box().expect("a key").into_string();
    fs::write(folder.join(format!("{name}.pub")), &public).expect("writable");
    (path, PublicKey::parse(&public).expect("a key"))
}

#[test]
fn a_bundle_of_roots_is_taken() {
    let (_folder, path) = folder();
    assert_eq!(&trusted::read(&path, &[]).expect("as it must be"), bundle());
}

#[test]
fn links_are_refused_wherever_they_are() {
    let (folder, path) = folder();
    let link = path.with_file_name("link.mvu");
    symlink(&path, &link).expect("writable");
    assert_eq!(code(&link, &[]), "E453");
    let other = tempfile::tempdir().expect("a temporary folder");
    let on_the_way = other.path().canonicalize().expect("it exists").join("way");
    symlink(folder.path(), &on_the_way).expect("writable");
    assert_eq!(code(&on_the_way.join("a.mvu"), &[]), "E453");
    let magic = format!("/proc/self/cwd/{}", path.display());
    assert_eq!(code(Path::new(&magic), &[]), "E453");
}

#[test]
fn only_regular_files_of_absolute_paths_are_read() {
    let (folder, path) = folder();
    let pipe = path.with_file_name("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("writable");
    assert_eq!(code(&pipe, &[]), "E453");
    assert_eq!(
        code(&folder.path().canonicalize().expect("there"), &[]),
        "E453"
    );
    assert_eq!(code(Path::new("/dev/null"), &[]), "E453");
    assert_eq!(code(Path::new("a.mvu"), &[]), "E453");
    assert_eq!(code(&path.with_file_name("absent"), &[]), "E400");
}

#[test]
fn what_others_can_write_is_refused() {
    let (_folder, path) = folder();
    for mode in [0o666, 0o664, 0o646] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        assert_eq!(code(&path, &[]), "E453", "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("ours");
    assert!(trusted::read(&path, &[]).is_ok());
    // Only root can give a file away; who is not root cannot be given one either.
    if nix::unistd::geteuid().is_root() {
        chown(&path, Some(65534), None).expect("root may");
        assert_eq!(code(&path, &[]), "E453");
    }
}

#[test]
fn a_signature_must_be_there_and_right() {
    let (folder, path) = folder();
    let (secret, public) = key(folder.path(), "team");
    let (_, stranger) = key(folder.path(), "stranger");
    let keys = [public.clone()];
    assert_eq!(code(&path, &keys), "E454", "there is none");
    let signature = dsu::sign(&path, &secret).expect("a bundle and a key");
    assert_eq!(signature, trusted::signature_path(&path));
    assert_eq!(&trusted::read(&path, &keys).expect("signed"), bundle());
    let error = trusted::read(&path, std::slice::from_ref(&stranger)).expect_err("another key");
    assert!(error.to_string().contains("another key"), "{error}");
    assert_eq!(
        code(&path, &[public.clone(), stranger]),
        "E454",
        "both must have signed"
    );

    // Another bundle in its place, intact, but not what was signed.
    other().write(&path).expect("writable");
    assert!(trusted::read(&path, &[]).is_ok());
    assert_eq!(code(&path, &keys), "E454");
    bundle().write(&path).expect("writable");

    let text = fs::read_to_string(&signature).expect("just written");
    for damaged in [
        String::new(),
        "noise".into(),
        text[..text.len() / 2].to_owned(),
        text.replacen("mvedsua bundle ", "mvedsua bundle X", 2),
    ] {
        fs::write(&signature, &damaged).expect("writable");
        assert_eq!(code(&path, &keys), "E454", "{damaged:?}");
    }
    fs::remove_file(&signature).expect("ours");
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, text).expect("writable");
    symlink(&elsewhere, &signature).expect("writable");
    assert_eq!(code(&path, &keys), "E453", "a linked signature");
}

#[test]
fn a_damaged_signature_file_never_panics() {
    let (folder, path) = folder();
    let (secret, public) = key(folder.path(), "team");
    let signature = dsu::sign(&path, &secret).expect("a bundle and a key");
    let text = fs::read(&signature).expect("just written");
    let keys = [public];
    let comment = text.iter().position(|&byte| byte == b'\n').expect("lines");
    // The line end behind the last line means nothing, nor does the first line: a comment.
    let signed = text.trim_ascii_end().len();
    for at in 0..signed {
        fs::write(&signature, &text[..at]).expect("writable");
        assert_eq!(code(&path, &keys), "E454", "cut at {at}");
        let mut flipped = text.clone();
        flipped[at] ^= 1 << (at % 7);
        fs::write(&signature, &flipped).expect("writable");
        assert!(
            trusted::read(&path, &keys).is_err() || at < comment,
            "byte {at}"
        );
    }
}

#[test]
fn keys_are_files_of_minisign() {
    let (folder, path) = folder();
    let (secret, public) = key(folder.path(), "team");
    let at = |name: &str| path.with_file_name(name);
    assert_eq!(PublicKey::load(&at("team.pub")).expect("a key"), public);
    assert_eq!(PublicKey::parse(public.line()).expect("a key"), public);
    let public_file = PublicKey::load(&secret.canonicalize().expect("there"));
    assert!(
        matches!(public_file, Err(DsuError::BadKey { .. })),
        "a secret key"
    );
    assert!(matches!(
        dsu::sign(&path, &at("team.pub")),
        Err(DsuError::BadKey { .. })
    ));
    assert!(matches!(
        dsu::sign(&secret, &secret),
        Err(DsuError::BadBundle { .. })
    ));
    fs::set_permissions(at("team.pub"), fs::Permissions::from_mode(0o666)).expect("ours");
    assert!(matches!(
        PublicKey::load(&at("team.pub")),
        Err(DsuError::Untrusted { .. })
    ));
}

/// Somebody keeps replacing the file, in whole and in part: what is taken is always one of the two
/// bundles, and never a mixture.
#[test]
fn a_file_that_is_replaced_meanwhile_is_one_or_the_other() {
    let (_folder, path) = folder();
    let stop = AtomicBool::new(false);
    let bytes = [bundle(), other()].map(|b| b.to_bytes().expect("it was built"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (bundle, bytes) in [bundle(), other()].into_iter().zip(&bytes) {
                    bundle.write(&path).expect("writable");
                    // In place, as an editor or `cp` does.
                    fs::write(&path, bytes).expect("writable");
                }
            }
        });
        let (mut taken, mut refused) = (0, 0);
        while taken < 300 {
            match trusted::read(&path, &[]) {
                Ok(read) => {
                    assert!(read == *bundle() || read == *other());
                    taken += 1;
                }
                Err(error) => {
                    assert_eq!(error.code(), "E450", "{error}");
                    refused += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        println!("{refused} half-written ones were refused");
    });
}
