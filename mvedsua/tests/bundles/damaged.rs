//! The reader against files that are no bundles any more.

use std::sync::OnceLock;

use mvedsua::dsu::{Bundle, DsuError, Placement, choose_base, plan};
use proptest::prelude::*;

use super::victim::Pair;

fn bundle() -> &'static Bundle {
    static BUNDLE: OnceLock<Bundle> = OnceLock::new();
    BUNDLE.get_or_init(|| Pair::new(&["basic.c"], &[]).bundle())
}

fn bytes() -> Vec<u8> {
    bundle().to_bytes().expect("it was built")
}

/// Writes the digest that the header asks for, so that damage behind it is looked at too.
fn seal(bytes: &mut [u8]) {
    use sha2::Digest as _;
    let sum: [u8; 32] = sha2::Sha256::new()
        .chain_update(&bytes[..20])
        .chain_update(&bytes[52..])
        .finalize()
        .into();
    bytes[20..52].copy_from_slice(&sum);
}

#[test]
fn it_reads_what_it_wrote() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a.mvu");
    bundle().write(&path).expect("writable");
    assert_eq!(&Bundle::open(&path).expect("it was just written"), bundle());
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .expect("readable")
        .map(|e| e.expect("readable").file_name())
        .collect();
    assert_eq!(names, ["a.mvu"], "no temporary file stays");
}

#[test]
fn links_folders_and_pipes_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, link, pipe) = (
        folder.path().join("a.mvu"),
        folder.path().join("link"),
        folder.path().join("pipe"),
    );
    bundle().write(&path).expect("writable");
    std::os::unix::fs::symlink(&path, &link).expect("writable");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("writable");
    assert!(matches!(Bundle::open(&link), Err(DsuError::Read { .. })));
    assert!(matches!(
        Bundle::open(&pipe),
        Err(DsuError::BadBundle { .. })
    ));
    assert!(Bundle::open(folder.path()).is_err());
}

#[test]
fn a_bundle_takes_the_place_of_a_file_only() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("writable");
    let file = folder.path().join("file");
    std::fs::write(&file, "old").expect("writable");
    let bundle = Bundle::parse("it", &bytes()).expect("good");
    bundle.write(&file).expect("a file is replaced");
    assert!(matches!(bundle.write(&pipe), Err(DsuError::Write { .. })));
    assert!(matches!(
        bundle.write(folder.path()),
        Err(DsuError::Write { .. })
    ));
}

#[test]
fn another_version_is_told_apart() {
    let mut bytes = bytes();
    bytes[8] = 3;
    assert!(matches!(
        Bundle::parse("it", &bytes),
        Err(DsuError::Version { found: 3, known: 2 })
    ));
}

#[test]
fn a_plan_for_another_build_is_refused() {
    let error = plan(
        &bundle().manifest,
        &Placement::loaded(vec![1, 2, 3], 0),
        0x1000_0000,
        &|_| None,
    )
    .expect_err("another build");
    assert!(
        error.to_string().contains("and the process runs 010203"),
        "{error}"
    );
}

#[test]
fn a_base_out_of_reach_is_refused() {
    let manifest = &bundle().manifest;
    let process = Placement::loaded(manifest.old.build_id.clone(), 0x5555_0000_0000);
    assert_eq!(
        plan(manifest, &process, 0x1000_0000, &|_| None)
            .expect_err("too far")
            .code(),
        "E460"
    );
    assert!(plan(manifest, &process, 0x5555_1000_0000, &|_| None).is_ok());
}

#[test]
fn the_base_is_the_nearest_room() {
    let manifest = &bundle().manifest;
    let image = (0x5555_0000_0000, 0x5555_0010_0000);
    let base = choose_base(
        manifest,
        image,
        &[(image.0, image.1), (0x7fff_0000_0000, 0x7fff_0001_0000)],
    )
    .expect("there is room");
    let (low, high) = manifest.span();
    assert!(base + high <= image.0 || base + low >= image.1);
    assert!((base + low).abs_diff(image.0) < 4 << 20);
    let everything = [(0, 0x5555_8000_0000), (0x5555_8000_0000, 1 << 47)];
    assert_eq!(choose_base(manifest, image, &everything), None);
}

/// Every prefix, and every bit: there is no place that the digest does not cover.
#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let mut bytes = bytes();
    for keep in 0..bytes.len() {
        let error = Bundle::parse("it", &bytes[..keep]).expect_err("truncated");
        assert_eq!(error.code(), "E450", "{keep} bytes");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let error = Bundle::parse("it", &bytes).expect_err("a flipped bit");
            let version = (8..12).contains(&at);
            let expected = if version { "E451" } else { "E450" };
            assert_eq!(error.code(), expected, "byte {at}, bit {bit}");
            bytes[at] ^= 1 << bit;
        }
    }
    assert!(
        Bundle::parse("it", &bytes).is_ok(),
        "all flips were taken back"
    );
}

/// The same for somebody who computes the digest anew: what is read then is read without a panic, and
/// no plan is made of what does not fit.
#[test]
fn every_flipped_bit_behind_a_right_digest_is_read_without_a_panic() {
    let mut bytes = bytes();
    let mut taken = 0;
    for at in 52..bytes.len() {
        let bit = 1 << (at % 8);
        bytes[at] ^= bit;
        seal(&mut bytes);
        if let Ok(bundle) = Bundle::parse("it", &bytes) {
            taken += 1;
            let process = Placement::loaded(bundle.manifest.old.build_id.clone(), 0x5555_0000_0000);
            let _ = plan(&bundle.manifest, &process, 0x5555_1000_0000, &|_| {
                Some(0x1234)
            });
        }
        bytes[at] ^= bit;
    }
    assert!(taken > 0, "some of it is text");
}

proptest! {
    /// Someone who can compute a digest gets no panic either, neither from the reader nor the planner.
    #[test]
    fn forged_files_do_not_panic(changes in prop::collection::vec((0usize..1 << 20, any::<u8>()), 1..8), cut in 0usize..64, base in any::<u64>()) {
        let mut bytes = bytes();
        bytes.truncate(bytes.len() - cut);
        let length = bytes.len() - 52;
        for (at, value) in changes {
            bytes[52 + at % length] = value;
        }
        bytes[12..20].copy_from_slice(&(length as u64).to_le_bytes());
        seal(&mut bytes);
        if let Ok(bundle) = Bundle::parse("it", &bytes) {
            let process = Placement::loaded(bundle.manifest.old.build_id.clone(), 0x5555_0000_0000);
            let _ = plan(&bundle.manifest, &process, base & !0xfff, &|_| Some(0x1234));
            let _ = choose_base(&bundle.manifest, (0x5555_0000_0000, 0x5555_0010_0000), &[(0x5555_0000_0000, 0x5555_0010_0000)]);
        }
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Bundle::parse("it", &noise).is_err());
    }
}
