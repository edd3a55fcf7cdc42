//! Descriptors sent over Unix sockets, with a few bytes: none is left open by accident, whatever the other end sends.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// What one call has brought.
pub(crate) struct Arrived {
    /// Bytes read; 0 at the end of a stream.
    pub(crate) read: usize,
    pub(crate) fds: Vec<OwnedFd>,
    /// Whether there was more than there was room for.
    pub(crate) cut: bool,
}

/// Sends `bytes`, the first of them with `fds`. Who is gone is an error, no signal.
pub(crate) fn send(socket: BorrowedFd<'_>, mut bytes: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let mut rights = if fds.is_empty() { &[][..] } else { &rights };
    while !bytes.is_empty() {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(sent) => (bytes, rights) = (&bytes[sent..], &[]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Receives at most `bytes.len()` bytes, and all descriptors that come with them.
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> nix::Result<Arrived> {
    // A message has at most 253 descriptors (SCM_MAX_FD, a kilobyte); the rest is for what the socket's owner may have
    // asked the kernel to add. nix gives up on a message that was cut, with the descriptors that came: hence libc.
    let mut space = [0_u64; 512];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&space) as _;
    let read = loop {
        // SAFETY: `message` states the lengths of the two buffers, which live until the end of this function.
        match unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) } {
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return Err(Errno::last()),
            read => break read as usize,
        }
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled `message` in; the macros walk what it has written, which is aligned as they want. Each
    // number is a descriptor made for us just now, which nobody else knows.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(control) = at.as_ref() {
            if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(at).cast::<RawFd>();
                #[allow(clippy::unnecessary_cast)] // musl has 32 bits of it
                let len = (control.cmsg_len as usize).saturating_sub(data as usize - at as usize);
                fds.extend(
                    (0..len / size_of::<RawFd>()).map(|index| OwnedFd::from_raw_fd(data.add(index).read_unaligned())),
                );
            }
            at = libc::CMSG_NXTHDR(&raw const message, at);
        }
    }
    Ok(Arrived { read, fds, cut: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 })
}
