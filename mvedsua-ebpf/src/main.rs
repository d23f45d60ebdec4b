//! The recorder: one program that sees every system call exit of the machine and writes those of
//! the recorded processes, payload included, into the ring.
//!
//! It runs on the tracepoint `sys_exit`, as a program with BTF (`tp_btf`, Linux 5.5), so that registers and
//! the task are read by plain loads. `pt_regs` still holds the arguments there (only `rax`,
//! `rcx` and `r11` are changed by a call), so no program is needed at the entry. What to copy
//! comes from the plans that the agent compiled from the syscall table, see `mvedsua_common::plan`.
//!
//! Invariants:
//! - The program runs with preemption disabled, and no system call exits inside another on one
//!   CPU: the scratch buffer of the CPU is ours until we return.
//! - Whatever cannot be put into the ring stops the thread at this very exit, so that the
//!   agent can fetch it, or at least knows. Nothing is left out in silence.
//! - The leader wakes nobody (`BPF_RB_NO_WAKEUP`): the agent polls the ring.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod copy;
mod maps;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_RB_AVAIL_DATA, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_send_signal_thread,
        generated::bpf_get_current_task_btf,
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use mvedsua_common::{
    clock::{ClockSlot, near_place},
    event::{
        EventHeader, FLAG_OUT_OF_LINE, FLAG_RESTARTED, FLAG_RING_FULL, FLAG_SIGNAL, MAX_RECORD,
    },
    plan::{ACTION_BY_COMMAND, ACTION_SKIP, PLANS_BY_NUMBER, RESTART_SYSCALL, command_key},
};

use crate::{
    copy::{Outcome, Record},
    maps::{
        CLOCKS, COMMANDS, CONFIG, COUNTERS, EVENTS, LEADERS, NEAR_CLOCKS, PLANS, RESTARTS, SCRATCH,
    },
};

/// The kernel's internal result of a call that wants to be resumed through `restart_syscall`.
const ERESTART_RESTARTBLOCK: i64 = 516;
const SIGSTOP: u32 = 19;

/// Words of `struct pt_regs` (x86-64) from `r10` on, which is at byte 56.
#[repr(C)]
struct Registers {
    r10: u64,
    r9: u64,
    r8: u64,
    ax: u64,
    cx: u64,
    dx: u64,
    si: u64,
    di: u64,
    orig_ax: u64,
}
const R10_IN_PT_REGS: usize = 56;

#[btf_tracepoint(function = "sys_exit")]
pub fn record_exit(ctx: BtfTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    let tgid = (id >> 32) as u32;
    // First of all, for this runs at every system call of the machine.
    if let Some(word) = LEADERS.get_ptr(tgid / 64)
        // SAFETY: a value of a live map; the agent changes whole words.
        && unsafe { *word } >> (tgid % 64) & 1 != 0
    {
        let _ = record(&ctx, tgid, id as u32);
    }
    0
}

#[inline(always)]
fn record(ctx: &BtfTracePointContext, tgid: u32, tid: u32) -> Option<()> {
    let regs: *const u8 = ctx.arg(0);
    let ret: i64 = ctx.arg::<u64>(1) as i64;
    // SAFETY: the verifier knows this pointer as one to a `struct pt_regs` and checks every load.
    let saved = unsafe { &*regs.add(R10_IN_PT_REGS).cast::<Registers>() };

    let mut nr = saved.orig_ax;
    // rt_sigreturn restores the registers of the interrupted code, and orig_ax with them (-1).
    if nr == u64::MAX {
        return None;
    }
    let mut flags = 0;
    if nr == u64::from(RESTART_SYSCALL)
        && let Some(original) = RESTARTS.get_ptr(&tid)
    {
        // SAFETY: a value of a live map; racing with nobody but this thread.
        nr = unsafe { *original };
        flags |= FLAG_RESTARTED;
    }
    if ret == -ERESTART_RESTARTBLOCK {
        // Also for calls that are not recorded (a futex with a time limit), or the restart that
        // follows would count as an unknown call.
        let _ = RESTARTS.insert(&tid, &nr, u64::from(BPF_ANY));
    }

    let by_number = if nr < PLANS_BY_NUMBER as u64 {
        nr as u32
    } else {
        PLANS_BY_NUMBER as u32
    };
    let mut plan = PLANS.get_ptr(by_number)?;
    // SAFETY: `plan` points to a map value; the agent does not write it while we are attached.
    unsafe {
        if (*plan).action == ACTION_BY_COMMAND {
            let command = match (*plan).command_arg {
                0 => saved.di,
                1 => saved.si,
                2 => saved.dx,
                _ => saved.r10,
            };
            let index = match COMMANDS.get_ptr(&command_key(nr, command as u32)) {
                Some(index) => *index,
                None => PLANS_BY_NUMBER as u32,
            };
            plan = PLANS.get_ptr(index)?;
        }
        if (*plan).action == ACTION_SKIP {
            return None;
        }
    }

    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let scratch = SCRATCH.get_ptr_mut(cpu)?;
    let header: *mut EventHeader = scratch.cast();
    // SAFETY: the scratch buffer is larger than a header, aligned, and ours (module invariant);
    // `plan` points to a map value.
    let record = unsafe {
        (*header).nr = if nr <= u64::from(u16::MAX) {
            nr as u16
        } else {
            u16::MAX
        };
        (*header).tgid = tgid;
        (*header).tid = tid;
        (*header).ret = ret;
        (*header).args = [saved.di, saved.si, saved.dx, saved.r10, saved.r8, saved.r9];
        (*header).cpu = cpu;
        let record = Record::new(scratch);
        if record.copy_parts(plan) == Outcome::OutOfLine {
            record.clear();
            flags |= FLAG_OUT_OF_LINE;
        }
        if let Some(slot) = clock_slot(tid)
            && record.append_readings(slot) == Outcome::OutOfLine
        {
            record.clear();
            flags |= FLAG_OUT_OF_LINE;
        }
        record
    };
    let len = record.len();

    let config = CONFIG.get_ptr(0)?;
    let counters = COUNTERS.get_ptr_mut(0)?;
    // SAFETY: map values; the ring is a map, `len` bytes of the scratch buffer were written by us
    // or by an earlier record of this CPU.
    unsafe {
        // `thread_info` is the first member of a task, `flags` its first word.
        let thread_flags = bpf_get_current_task_btf().cast::<u64>().read_volatile();
        if thread_flags & (*config).signal_pending != 0 {
            flags |= FLAG_SIGNAL;
        }
        let used = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
        if used + (*config).margin + len as u64 > (*config).capacity {
            flags |= FLAG_RING_FULL;
        }
        (*header).flags = flags;

        let mut stop = flags & (FLAG_OUT_OF_LINE | FLAG_RING_FULL) != 0;
        let bytes =
            core::slice::from_raw_parts(scratch.cast::<u8>(), copy::bounded(len, MAX_RECORD));
        if EVENTS
            .output::<[u8]>(bytes, u64::from(BPF_RB_NO_WAKEUP))
            .is_ok()
        {
            (*counters).recorded += 1;
        } else {
            (*counters).lost += 1;
            stop = true;
        }
        if stop {
            if flags & FLAG_OUT_OF_LINE != 0 {
                (*counters).out_of_line += 1;
            }
            if flags & FLAG_RING_FULL != 0 {
                (*counters).ring_full += 1;
            }
            // The signal is queued now and seen before the thread is back in its own code.
            if bpf_send_signal_thread(SIGSTOP) != 0 {
                (*counters).lost += 1;
            }
        }
    }
    Some(())
}

/// Where the thread writes its clock readings down, if it does.
#[inline(always)]
fn clock_slot(tid: u32) -> Option<*mut ClockSlot> {
    let near = NEAR_CLOCKS.get_ptr_mut(near_place(tid))?;
    // SAFETY: a value of a live map. The agent changes it only while its thread stands or is gone; of another thread's
    // place only the id is looked at.
    if unsafe { (*near).tid } == u64::from(tid) {
        Some(near)
    } else {
        CLOCKS.get_ptr_mut(&tid)
    }
}

/// Both, because the kernel lends some of its helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
