//! A program that is run, and stopped where a library is mapped, where its constructors begin and end, and at the end.
//!
//! # Safety
//! What is done to the program is what a debugger does: at a stop after a system call it is made to do two more
//! (`userfaultfd` and `close`), after which its registers are as they were. Nothing of its memory is changed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::RawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use soload::{Addr, Bias, Image, Mapping, PageSize, Plan, Vaddr};

use super::watch::{Snapshot, Watch};

/// What is watched for.
pub(super) struct Subject<'a> {
    pub(super) image: &'a Image,
    pub(super) plan: &'a Plan,
    pub(super) constructors: Vec<Vaddr>,
    /// Device and inode of the file.
    pub(super) identity: (u64, u64),
}

/// How the watching ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the process.
    Exit,
    /// The library was unmapped.
    Unloaded,
    /// The process was killed or became another program; the last state was not seen.
    Lost,
}

/// What was seen.
pub(super) struct Traced {
    pub(super) watch: Watch,
    /// Whether all segments have been mapped: it was loaded, and not only looked into.
    complete: bool,
    /// After relocation, after constructors, at the end: what there was of these.
    pub(super) loaded: Option<Snapshot>,
    pub(super) initialised: Option<Snapshot>,
    pub(super) last: Option<Snapshot>,
    pub(super) end: Option<End>,
    /// Why the moments of constructors could not be seen.
    pub(super) without_breakpoints: Option<String>,
}

/// Runs `command` to its end, and all that it starts; the first process that maps the library is watched.
pub(super) fn run(mut command: Command, subject: &Subject<'_>) -> Result<Option<Traced>, String> {
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn().map_err(|error| format!("cannot be run: {error}"))?;
    let child = Pid::from_raw(child.id() as i32);
    waitpid(child, None).map_err(|error| format!("wait: {error}"))?;
    let follow = Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
    let stops = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACESECCOMP
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEEXIT
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(child, follow | stops).map_err(|error| format!("ptrace: {error}"))?;
    let mut tracer = Tracer { subject, known: HashSet::from([child]), mapping: None, traced: None, stack: 0 };
    let _ = ptrace::cont(child, None);
    tracer.follow()?;
    Ok(tracer.traced.filter(|traced| traced.complete))
}

/// Of the child: to be traced, and stopped at the few system calls that map and unmap.
fn prepare() -> io::Result<()> {
    const ARCH_X86_64: u32 = 0xc000_003e;
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // `struct seccomp_data`: the number of the call at 0, the architecture at 4.
    let filter = [
        line(LOAD, 0, 0, 4),
        line(EQUAL, 0, 4, ARCH_X86_64),
        line(LOAD, 0, 0, 0),
        line(EQUAL, 1, 0, libc::SYS_mmap as u32),
        line(EQUAL, 0, 1, libc::SYS_munmap as u32),
        line(RETURN, 0, 0, libc::SECCOMP_RET_TRACE),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    ptrace::traceme()?;
    // SAFETY: numbers, and a filter that outlives the call.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

struct Tracer<'a> {
    subject: &'a Subject<'a>,
    /// Threads that have been seen. A new one begins with a stop that is nobody's signal.
    known: HashSet<Pid>,
    /// The thread whose `mmap` is being waited for.
    mapping: Option<Pid>,
    traced: Option<Traced>,
    /// The stack pointer where the last constructor returns.
    stack: u64,
}

/// Debug registers that hold the first and the last constructor, and where the last one returns to.
const FIRST: usize = 0;
const LAST: usize = 1;
const RETURN: usize = 2;
const TRAP_HWBKPT: i32 = 4;

impl Tracer<'_> {
    /// Until no process is left.
    fn follow(&mut self) -> Result<(), String> {
        loop {
            let status = match waitpid(None::<Pid>, Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(format!("wait: {error}")),
            };
            // A process that has been killed meanwhile is not there to be resumed; that it ended is told next.
            match status {
                WaitStatus::PtraceEvent(thread, _, libc::PTRACE_EVENT_SECCOMP) => match self.at_call(thread) {
                    true => drop(ptrace::syscall(thread, None)),
                    false => drop(ptrace::cont(thread, None)),
                },
                WaitStatus::PtraceSyscall(thread) => {
                    if self.mapping.take_if(|waiting| *waiting == thread).is_some() {
                        self.after_mapping(thread)?;
                    }
                    let _ = ptrace::cont(thread, None);
                }
                WaitStatus::PtraceEvent(thread, _, event) => {
                    self.at_event(thread, event);
                    let _ = ptrace::cont(thread, None);
                }
                WaitStatus::Stopped(thread, signal) => {
                    let is_new = self.known.insert(thread);
                    let ours = signal == Signal::SIGTRAP && self.at_breakpoint(thread);
                    let pass = !(ours || is_new && signal == Signal::SIGSTOP);
                    let _ = ptrace::cont(thread, pass.then_some(signal));
                }
                WaitStatus::Signaled(process, ..) | WaitStatus::Exited(process, _) => {
                    self.known.remove(&process);
                }
                _ => {}
            }
        }
    }

    /// Whether the end of this system call has to be seen.
    fn at_call(&mut self, thread: Pid) -> bool {
        let Ok(registers) = ptrace::getregs(thread) else { return false };
        let range = range_of(registers.rdi, registers.rsi);
        let watched = self.traced.as_ref().filter(|traced| is_of(thread, traced.watch.process));
        let concerns = watched.is_some_and(|traced| traced.end.is_none() && traced.watch.concerns(&range));
        if registers.orig_rax == libc::SYS_munmap as u64 {
            match watched.map(|traced| traced.complete) {
                Some(true) if concerns => self.finish(End::Unloaded),
                // It was mapped to be looked into, no more.
                Some(false) if concerns => self.traced = None,
                _ => {}
            }
            return false;
        }
        let may_begin = self.traced.as_ref().is_none_or(|traced| !traced.complete);
        let wanted = concerns || may_begin && self.is_file(thread, registers.r8 as RawFd);
        self.mapping = wanted.then_some(thread).or(self.mapping);
        wanted
    }

    fn is_file(&self, thread: Pid, descriptor: RawFd) -> bool {
        let meta = fs::metadata(format!("/proc/{thread}/fd/{descriptor}"));
        descriptor >= 0 && meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == self.subject.identity)
    }

    /// Begins to watch when the file is mapped so that it may become the library, or watches what is mapped into it now.
    fn after_mapping(&mut self, thread: Pid) -> Result<(), String> {
        let Ok(registers) = ptrace::getregs(thread) else { return Ok(()) };
        if registers.rax > -4096_i64 as u64 {
            return Ok(()); // an error
        }
        let range = range_of(registers.rax, registers.rsi);
        let mappings = Mapping::all_of(thread.as_raw() as u32).unwrap_or_default();
        let bias = Mapping::bias_of(&mappings, self.subject.image, self.subject.plan);
        if let Some(traced) = &mut self.traced
            && is_of(thread, traced.watch.process)
            && (traced.complete || bias.is_none_or(|bias| bias == traced.watch.bias))
        {
            traced.complete |= bias.is_some();
            return if traced.watch.concerns(&range) { traced.watch.register(&range) } else { Ok(()) };
        }
        // Loaders map all of it first, and read its headers there; then one segment after the other into that.
        let span = &self.subject.plan.span;
        let whole = (range.end.0 - range.start.0) as u64 == span.end.0 - span.start.0 && registers.r9 == 0;
        match bias.or_else(|| whole.then(|| Bias::between(range.start, span.start))) {
            Some(begun) => self.begin(thread, begun, bias.is_some()),
            None => Ok(()),
        }
    }

    fn begin(&mut self, thread: Pid, bias: Bias, complete: bool) -> Result<(), String> {
        let process = process_of(thread).ok_or("the process has ended")?;
        self.traced = None;
        // USER_MODE_ONLY: allowed to everybody, and no less of what is asked for here.
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK | 1) as u64;
        let descriptor = inject(thread, libc::SYS_userfaultfd, flags)?;
        let watch = Watch::start(process, descriptor as RawFd, bias, &self.subject.plan.span);
        inject(thread, libc::SYS_close, descriptor)?;
        let without_breakpoints = self.set_breakpoints(thread, bias).err().map(|errno| errno.desc().to_owned());
        let (watch, loaded, initialised, last) = (watch?, None, None, None);
        self.traced = Some(Traced { watch, complete, loaded, initialised, last, end: None, without_breakpoints });
        Ok(())
    }

    fn set_breakpoints(&self, thread: Pid, bias: Bias) -> Result<(), Errno> {
        let functions = &self.subject.constructors;
        let (Some(first), Some(last)) = (functions.first(), functions.last()) else { return Ok(()) };
        set_breakpoint(thread, FIRST, bias.at(*first))?;
        if last != first {
            set_breakpoint(thread, LAST, bias.at(*last))?;
        }
        Ok(())
    }

    /// Whether it is a breakpoint of ours, and then looks at the pages.
    fn at_breakpoint(&mut self, thread: Pid) -> bool {
        let ours = ptrace::getsiginfo(thread).is_ok_and(|info| info.si_code == TRAP_HWBKPT);
        let (Some(traced), true) = (&mut self.traced, ours) else { return false };
        let hit = ptrace::read_user(thread, debug_register(6)).unwrap_or(0);
        let _ = ptrace::write_user(thread, debug_register(6), 0);
        let has = |register: usize| hit >> register & 1 == 1;
        let Ok(registers) = ptrace::getregs(thread) else { return true };
        let only = self.subject.constructors.len() == 1;
        if has(FIRST) {
            traced.loaded = traced.watch.look().ok();
            clear_breakpoint(thread, FIRST);
        }
        if has(LAST) || has(FIRST) && only {
            clear_breakpoint(thread, LAST);
            let mut word = [0; 8];
            let memory = fs::File::open(format!("/proc/{thread}/mem"));
            if memory.and_then(|memory| memory.read_exact_at(&mut word, registers.rsp)).is_ok() {
                self.stack = registers.rsp + 8;
                let _ = set_breakpoint(thread, RETURN, Addr(usize::from_ne_bytes(word)));
            }
        }
        // What it calls may return to the same place; its own return takes the address off the stack.
        if has(RETURN) && registers.rsp == self.stack {
            traced.initialised = traced.watch.look().ok();
            clear_breakpoint(thread, RETURN);
        }
        true
    }

    fn at_event(&mut self, thread: Pid, event: i32) {
        let Some(traced) = self.traced.as_mut().filter(|traced| traced.watch.process == thread) else { return };
        match event {
            libc::PTRACE_EVENT_EXIT => self.finish(End::Exit),
            // Its old memory is gone.
            libc::PTRACE_EVENT_EXEC => traced.end = traced.end.or(Some(End::Lost)),
            _ => {}
        }
    }

    fn finish(&mut self, end: End) {
        if let Some(traced) = self.traced.as_mut().filter(|traced| traced.end.is_none()) {
            traced.last = traced.watch.look().ok();
            traced.end = Some(end);
        }
    }
}

/// The addresses of a mapping. The kernel takes whole pages, whatever length it is given.
fn range_of(start: u64, len: u64) -> Range<Addr> {
    let end = PageSize::native().up(start.saturating_add(len)).unwrap_or(u64::MAX);
    Addr(start as usize)..Addr(end as usize)
}

/// The process that a thread belongs to.
fn process_of(thread: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let id = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())?;
    Some(Pid::from_raw(id))
}

fn is_of(thread: Pid, process: Pid) -> bool {
    thread == process || process_of(thread) == Some(process)
}

/// Has a thread that stands behind a system call make another one.
fn inject(thread: Pid, call: libc::c_long, argument: u64) -> Result<u64, String> {
    const SYSCALL: u64 = 2; // bytes of the instruction that it stands behind
    let text = |errno: Errno| format!("ptrace: {}", errno.desc());
    let registers = ptrace::getregs(thread).map_err(text)?;
    let mut changed = registers;
    changed.rip -= SYSCALL;
    changed.rax = call as u64;
    changed.orig_rax = u64::MAX; // no call that would be restarted
    changed.rdi = argument;
    ptrace::setregs(thread, changed).map_err(text)?;
    let mut signals: Vec<Signal> = Vec::new();
    let mut stops = 0;
    // One stop where the call begins, one where it ends.
    while stops < 2 {
        ptrace::syscall(thread, None).map_err(text)?;
        match waitpid(thread, Some(WaitPidFlag::__WALL)).map_err(text)? {
            WaitStatus::PtraceSyscall(_) => stops += 1,
            WaitStatus::Stopped(_, signal) => signals.push(signal),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Err("the process has ended".into()),
            _ => {}
        }
    }
    let answer = ptrace::getregs(thread).map_err(text)?.rax;
    ptrace::setregs(thread, registers).map_err(text)?;
    for signal in signals {
        let _ = kill(thread, signal);
    }
    match answer as i64 {
        0.. => Ok(answer),
        error => Err(format!("userfaultfd: {}", Errno::from_raw(-error as i32).desc())),
    }
}

fn debug_register(number: usize) -> ptrace::AddressType {
    (offset_of!(libc::user, u_debugreg) + number * size_of::<u64>()) as ptrace::AddressType
}

/// An execution breakpoint without a change of the code: pages of code stay shared.
fn set_breakpoint(thread: Pid, number: usize, at: Addr) -> Result<(), Errno> {
    let control = ptrace::read_user(thread, debug_register(7))?;
    ptrace::write_user(thread, debug_register(number), at.0 as libc::c_long)?;
    ptrace::write_user(thread, debug_register(7), control | 1 << (2 * number))
}

fn clear_breakpoint(thread: Pid, number: usize) {
    let control = ptrace::read_user(thread, debug_register(7)).unwrap_or(0);
    let _ = ptrace::write_user(thread, debug_register(7), control & !(1 << (2 * number)));
}
