//! Properties of comparing and answering, on random calls of every kind that the table can express.

use mvedsua_common::event::{EventHeader, PART_WHOLE};
use mvedsua_common::spec::{Arg, Dir};
use mvedsua_common::table::SYSCALLS;
use proptest::prelude::*;

use super::{Call, EpollData, Fault, Memory, Record, answer, compare, push_part};

/// Memory in which argument `n` points to its own page.
struct Pages(Vec<[u8; 256]>);

const fn page(arg: usize) -> u64 {
    0x1_0000 + 0x1000 * arg as u64
}

impl Pages {
    fn slice(&mut self, address: u64, len: usize) -> Result<&mut [u8], Fault> {
        let fault = Fault { address };
        let arg = address.checked_sub(page(0)).ok_or(fault)? / 0x1000;
        let offset = (address & 0xfff) as usize;
        let page = self.0.get_mut(arg as usize).ok_or(fault)?;
        page.get_mut(offset..offset + len).ok_or(fault)
    }
}

impl Memory for Pages {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        buffer.copy_from_slice(self.slice(address, buffer.len())?);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), Fault> {
        self.slice(address, data.len())?.copy_from_slice(data);
        Ok(())
    }
}

/// Arguments whose memory the process gives to the kernel as plain bytes.
fn is_plain_input(arg: Arg) -> bool {
    use mvedsua_common::spec::Len;
    match arg {
        Arg::Mem(Dir::In, len) => !matches!(len, Len::Iov(_) | Len::Msg | Len::Mmsg),
        Arg::Path | Arg::SockaddrIn(_) => true,
        _ => false,
    }
}

/// A random call of the table with 16 bytes of memory recorded for each plain input.
fn calls() -> impl Strategy<Value = (Call, Vec<u8>, Vec<[u8; 256]>, i64)> {
    (
        0..SYSCALLS.len(),
        any::<[u64; 6]>(),
        any::<[u8; 16]>(),
        1i64..100,
    )
        .prop_map(|(which, mut args, bytes, ret)| {
            let spec = &SYSCALLS[which];
            let mut payload = Vec::new();
            let mut pages = vec![[0u8; 256]; 6];
            for index in 0..6 {
                let arg = spec.arg_of(index, &args);
                if matches!(
                    arg,
                    Arg::Unused | Arg::Int | Arg::Long | Arg::Fd | Arg::Opaque
                ) {
                    continue;
                }
                args[index] = page(index);
                if is_plain_input(arg) {
                    pages[index][..16].copy_from_slice(&bytes);
                    push_part(&mut payload, index as u8, PART_WHOLE, &bytes);
                }
            }
            (Call { nr: spec.nr, args }, payload, pages, ret)
        })
}

fn header(call: &Call, ret: i64) -> EventHeader {
    EventHeader {
        len: 0,
        nr: call.nr,
        flags: 0,
        tgid: 1,
        tid: 1,
        ret,
        args: call.args,
        parts: u32::MAX,
        cpu: 0,
    }
}

proptest! {
    #[test]
    fn a_call_equals_itself_and_gets_the_leaders_result((call, payload, pages, ret) in calls()) {
        let record = Record { header: header(&call, ret), payload: &payload };
        let mut memory = Pages(pages);
        let mut scratch = Vec::new();
        prop_assert_eq!(compare(&record, &call, &mut memory, &mut scratch), Ok(()));
        let answer = answer(&record, &call, &mut memory, &EpollData::default());
        prop_assert_eq!(answer.map(|answer| answer.result), Ok(ret));
    }

    #[test]
    fn one_other_byte_is_found_in_its_argument(
        (call, payload, mut pages, ret) in calls(), at in 0usize..16, bit in 0u8..8
    ) {
        let spec = mvedsua_common::table::syscall(call.nr).expect("it is from the table");
        let input = (0..6).find(|index| is_plain_input(spec.arg_of(*index, &call.args)));
        prop_assume!(input.is_some());
        let index = input.expect("assumed");
        pages[index][at] ^= 1 << bit;
        let record = Record { header: header(&call, ret), payload: &payload };
        let difference = compare(&record, &call, &mut Pages(pages), &mut Vec::new());
        prop_assert_eq!(difference.map_err(|found| found.arg), Err(Some(index as u8)));
    }

    #[test]
    fn another_scalar_is_found(
        (call, payload, pages, ret) in calls(), index in 0usize..6, bit in 0u32..32
    ) {
        let spec = mvedsua_common::table::syscall(call.nr).expect("it is from the table");
        prop_assume!(matches!(spec.arg_of(index, &call.args), Arg::Int | Arg::Long | Arg::Fd));
        // A command decides what the other arguments are: changing it changes the question.
        prop_assume!(spec.commands.is_none());
        let record = Record { header: header(&call, ret), payload: &payload };
        let mut other = call;
        other.args[index] ^= 1 << bit;
        let difference = compare(&record, &other, &mut Pages(pages), &mut Vec::new());
        prop_assert_eq!(difference.map_err(|found| found.arg), Err(Some(index as u8)));
    }

    #[test]
    fn whatever_was_recorded_nothing_panics(
        (call, _, pages, ret) in calls(), noise in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let record = Record { header: header(&call, ret), payload: &noise };
        let mut memory = Pages(pages);
        let _ = compare(&record, &call, &mut memory, &mut Vec::new());
        let _ = answer(&record, &call, &mut memory, &EpollData::default());
        let _ = super::finish_messages(&record, &call, &mut memory);
    }
}

#[test]
fn what_the_kernel_does_not_read_of_a_struct_is_not_compared() {
    let fcntl = mvedsua_common::table::number("fcntl");
    let call = Call {
        nr: fcntl,
        // F_SETLK
        args: [3, 6, page(2), 0, 0, 0],
    };
    let mut payload = Vec::new();
    push_part(&mut payload, 2, PART_WHOLE, &[7; 32]);
    let record = Record {
        header: header(&call, 0),
        payload: &payload,
    };
    let unread = mvedsua_common::spec::unread("flock");
    for at in 0..32 {
        let mut pages = vec![[0u8; 256]; 6];
        pages[2][..32].copy_from_slice(&[7; 32]);
        pages[2][at] ^= 1;
        let found = compare(&record, &call, &mut Pages(pages), &mut Vec::new());
        let padding = unread.iter().any(|&(from, to)| (from..to).contains(&at));
        assert_eq!(found.is_ok(), padding, "byte {at}");
    }
}
