//! Any bytes as a bundle, and what is accepted as far as to the list of memory writes: nothing panics, what was
//! read is written back the same, and no plan writes outside of what it maps, or maps anything writable and
//! executable.
//!
//! The bytes are read as they are, and once more with length and digest put right: no fuzzer guesses a SHA-256,
//! and whoever makes a bundle on purpose does not have to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mvedsua::dsu::{Bundle, CONTROL_LEN, Import, Placement, Plan, VERSION, choose_base, plan};
use sha2::{Digest as _, Sha256};

/// Magic, version, length and digest; see `docs/bundles.md`.
const HEADER: usize = 52;

const IMAGE: (u64, u64) = (0x5555_5555_4000, 0x5555_5575_4000);

fn put_right(bytes: &[u8]) -> Option<Vec<u8>> {
    let payload = bytes.get(HEADER..)?;
    let mut whole = b"MVEDSUB\n".to_vec();
    whole.extend_from_slice(&VERSION.to_le_bytes());
    whole.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let digest = Sha256::new()
        .chain_update(&whole)
        .chain_update(payload)
        .finalize();
    whole.extend_from_slice(&digest);
    whole.extend_from_slice(payload);
    Some(whole)
}

/// All that the agent computes of a bundle before it touches a process.
fn use_it(bundle: &Bundle) {
    let again = Bundle::parse("again", &bundle.to_bytes().expect("it was read, so it can be written"));
    assert_eq!(again.expect("what was written can be read").manifest, bundle.manifest);
    bundle.manifest.report.text();

    let manifest = &bundle.manifest;
    let (image, bias) = if manifest.pie {
        (IMAGE, IMAGE.0)
    } else {
        ((0x40_0000, 0x60_0000), 0)
    };
    let taken = [image, (0x7fff_f7c0_0000, 0x7fff_f7ff_f000)];
    let Some(base) = choose_base(manifest, image, &taken) else {
        return;
    };
    let resolve = |import: &Import| (import.symbol.len() % 7 != 0).then_some(0x7fff_f7d0_0000);
    let mut process = Placement::loaded(manifest.old.build_id.clone(), bias);
    if let Ok(made) = plan(manifest, &process, base, &resolve) {
        check(&made);
        // On top of what an earlier bundle left: itself, if it leads back.
        process = made.after;
        process.build_id.clone_from(&manifest.old.build_id);
        if let Ok(made) = plan(manifest, &process, base, &resolve) {
            check(&made);
        }
    }
}

fn check(plan: &Plan) {
    let (start, len) = plan.reserve;
    let end = start.checked_add(len).expect("the range ends");
    for mapping in &plan.mappings {
        assert!(mapping.addr >= start && mapping.addr + mapping.len <= end);
    }
    let mapped = |addr: u64, len: u64| {
        let mut at = addr;
        for mapping in &plan.mappings {
            if mapping.addr <= at && at < mapping.addr + mapping.len {
                at = mapping.addr + mapping.len;
            }
        }
        addr.checked_add(len).is_some_and(|end| at >= end)
    };
    for write in &plan.fill {
        assert!(mapped(write.addr, write.bytes.len() as u64), "{}", write.what);
    }
    for copy in &plan.copies {
        assert!(mapped(copy.to, copy.len), "a copy to {:#x}", copy.to);
    }
    for write in &plan.switch {
        let expected = write.expected.as_ref().expect("the old bytes are known");
        assert_eq!(expected.bytes.len(), write.bytes.len());
        assert_eq!(expected.mask.len(), write.bytes.len());
        let _ = expected.matches(&write.bytes);
    }
    if let Some(transform) = &plan.transform {
        assert!(transform.range.0 >= start && transform.range.0 + transform.range.1 <= end);
        assert!(mapped(transform.entry, 1) && mapped(transform.control, CONTROL_LEN));
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(bundle) = Bundle::parse("fuzz", bytes) {
        use_it(&bundle);
    }
    if let Some(bytes) = put_right(bytes)
        && let Ok(bundle) = Bundle::parse("fuzz", &bytes)
    {
        use_it(&bundle);
    }
});
