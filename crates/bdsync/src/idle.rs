//! Giving way to everything else on the machine.

use std::io;

/// `IOPRIO_CLASS_IDLE`, shifted to where the system wants the class.
const IDLE_CLASS: libc::c_int = 3 << 13;
/// `IOPRIO_WHO_PROCESS`; with process 0 it is the calling thread, whose threads inherit it.
const WHO_PROCESS: libc::c_int = 1;

/// Takes the idle I/O class and the lowest processor priority, for this thread and
/// those it starts.
pub(crate) fn become_idle() -> io::Result<()> {
    // SAFETY: ioprio_set takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE_CLASS) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: setpriority takes three numbers and touches no memory.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
