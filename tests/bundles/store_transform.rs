//! Version 1 -> 2 of store.c in Rust, through the C ABI of transformers.
#![no_std]

#[unsafe(link_section = ".mvedsua.handles")]
#[used]
static HANDLES: [u8; 26] = *b"struct entry\0struct table\0";

#[repr(C)]
struct OldEntry {
    key: i64,
    value: *mut u8,
    chain: *mut OldEntry,
    next: *mut OldEntry,
}

#[repr(C)]
struct NewEntry {
    kind: i32,
    reads: i64,
    key: i64,
    value: *mut u8,
    chain: *mut NewEntry,
    next: *mut NewEntry,
}

#[repr(C)]
struct OldTable {
    buckets: *mut *mut OldEntry,
    size: usize,
    used: usize,
}

#[repr(C)]
struct NewTable {
    buckets: *mut *mut NewEntry,
    size: usize,
    used: usize,
    changes: i64,
}

unsafe extern "C" {
    #[link_name = "mvedsua.old.table"]
    static OLD_TABLE: OldTable;
    #[link_name = "mvedsua.new.table"]
    static mut NEW_TABLE: NewTable;
    #[link_name = "mvedsua.old.all"]
    static mut ALL: *mut u8;
    #[link_name = "mvedsua.old.latest"]
    static mut LATEST: *mut u8;
    fn mvedsua_alloc(bytes: usize) -> *mut u8;
    fn mvedsua_moved(old: *const u8, new: *mut u8, bytes: usize);
    fn mvedsua_follow(old: *const u8) -> *mut u8;
}

#[unsafe(no_mangle)]
pub extern "C" fn mvedsua_transform() -> i32 {
    unsafe {
        let mut old = ALL.cast::<OldEntry>();
        while !old.is_null() {
            let new = mvedsua_alloc(size_of::<NewEntry>()).cast::<NewEntry>();
            (*new).kind = 1;
            (*new).reads = 0;
            (*new).key = (*old).key;
            (*new).value = (*old).value;
            mvedsua_moved(old.cast(), new.cast(), size_of::<OldEntry>());
            old = (*old).next;
        }
        old = ALL.cast();
        while !old.is_null() {
            let new = mvedsua_follow(old.cast()).cast::<NewEntry>();
            (*new).chain = mvedsua_follow((*old).chain.cast()).cast();
            (*new).next = mvedsua_follow((*old).next.cast()).cast();
            old = (*old).next;
        }
        let buckets = OLD_TABLE.buckets.cast::<*mut u8>();
        for i in 0..OLD_TABLE.size {
            *buckets.add(i) = mvedsua_follow(*buckets.add(i));
        }
        NEW_TABLE = NewTable {
            buckets: buckets.cast(),
            size: OLD_TABLE.size,
            used: OLD_TABLE.used,
            changes: 1,
        };
        ALL = mvedsua_follow(ALL);
        LATEST = mvedsua_follow(LATEST);
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
