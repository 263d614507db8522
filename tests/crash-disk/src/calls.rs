//! libc's functions for files, defined anew: recorded when they concern a watched directory, and handed to the kernel.
//!
//! A definition in a program goes before that of a shared library, for the program and for all that is linked into it. The
//! kernel is reached by `syscall`, which none of these is made of. Only these functions are unsafe here; each keeps to what
//! the manual says about the one that it replaces.

use std::ffi::CStr;
use std::hint::black_box;
use std::sync::Arc;

use libc::{AT_FDCWD, c_char, c_int, c_long, c_void, mode_t, off_t, size_t, ssize_t};

use crate::record::{self, Held, Identity, Node, Verdict};
use crate::{Lie, Op};

/// Makes sure that the linker takes the functions below from here.
pub(crate) fn keep() {
    let all: [*const (); 15] = [
        open as *const (),
        open64 as *const (),
        write as *const (),
        pwrite as *const (),
        pwrite64 as *const (),
        ftruncate as *const (),
        ftruncate64 as *const (),
        fsync as *const (),
        fdatasync as *const (),
        rename as *const (),
        unlink as *const (),
        unlinkat as *const (),
        mkdir as *const (),
        rmdir as *const (),
        creat as *const (),
    ];
    black_box(all);
}

fn fail(number: c_int) -> c_int {
    // SAFETY: libc gives every thread a place for the number of its last error.
    unsafe { *libc::__errno_location() = number };
    -1
}

/// The results of these calls fit.
fn narrow(result: c_long) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

struct Found {
    identity: Identity,
    is_directory: bool,
    size: u64,
}

/// What a descriptor of a file or directory stands for; none for everything else.
fn inspect(fd: c_int) -> Option<Found> {
    let mut stat = std::mem::MaybeUninit::<libc::stat64>::uninit();
    // SAFETY: the kernel fills the place it is given, or says that it did not.
    let stat = unsafe {
        if libc::fstat64(fd, stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    found(&stat)
}

/// What a path stands for, below an open directory.
///
/// # Safety
/// `path` ends with a zero byte.
unsafe fn inspect_path(directory: c_int, path: *const c_char) -> Option<Found> {
    let mut stat = std::mem::MaybeUninit::<libc::stat64>::uninit();
    // SAFETY: as above; the path is the caller's.
    let stat = unsafe {
        if libc::fstatat64(directory, path, stat.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW) != 0 {
            return None;
        }
        stat.assume_init()
    };
    found(&stat)
}

fn found(stat: &libc::stat64) -> Option<Found> {
    let kind = stat.st_mode & libc::S_IFMT;
    let is_directory = kind == libc::S_IFDIR;
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    (is_directory || kind == libc::S_IFREG).then_some(Found {
        identity: (stat.st_dev, stat.st_ino),
        is_directory,
        size,
    })
}

/// The watched file or directory behind a descriptor, and its size.
fn watched(fd: c_int) -> Option<(Held, Node, u64)> {
    if !record::any() {
        return None;
    }
    let found = inspect(fd)?;
    record::held_node(found.identity).map(|(held, node)| (held, node, found.size))
}

/// The watched directory to which a path leads, and its name there.
///
/// # Safety
/// `path` is null or ends with a zero byte.
unsafe fn watched_path(path: *const c_char) -> Option<(Held, String)> {
    if !record::any() || path.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    let path = unsafe { CStr::from_ptr(path) };
    record::held_path(path.to_str().ok()?).filter(|(_, name)| record::is_recorded(name))
}

/// # Safety
/// `path` ends with a zero byte.
unsafe fn open_either(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the arguments are the caller's, and it keeps to the manual of open.
    let kernel = || narrow(unsafe { libc::syscall(libc::SYS_openat, AT_FDCWD, path, flags, c_long::from(mode)) });
    if !record::any() {
        return kernel();
    }
    // SAFETY: promised by the caller.
    let (watched, existed) = unsafe { (watched_path(path), libc::access(path, libc::F_OK) == 0) };
    let Some((mut held, name)) = watched else {
        let fd = kernel();
        if flags & libc::O_CREAT != 0
            && !existed
            && let Some(found) = (fd >= 0).then(|| inspect(fd)).flatten()
        {
            record::gone(found.identity);
        }
        return fd;
    };
    let creates = flags & libc::O_CREAT != 0 && !existed;
    if creates && let Verdict::Fail(number) = held.state().verdict(&format!("create {name}"), true) {
        return fail(number);
    }
    let fd = kernel();
    let Some(found) = (fd >= 0).then(|| inspect(fd)).flatten() else { return fd };
    if found.is_directory {
        held.state().directory(found.identity, name);
    } else if creates {
        held.created(found.identity, name);
    } else if flags & libc::O_TRUNC != 0
        && let Some(file) = held.state().file(found.identity)
    {
        held.record(Op::Truncate { file, size: 0 });
    }
    fd
}

/// # Safety
/// As `open` of libc. It takes its third argument from a variable list; on Linux that is passed like any other.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { open_either(path, flags, mode) }
}

/// # Safety
/// As `open64` of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { open_either(path, flags, mode) }
}

/// # Safety
/// As `creat` of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { open_either(path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode) }
}

/// Where the next write of a descriptor goes.
fn position(fd: c_int, size: u64) -> u64 {
    // SAFETY: neither call changes anything.
    let (flags, offset) = unsafe { (libc::fcntl(fd, libc::F_GETFL), libc::lseek(fd, 0, libc::SEEK_CUR)) };
    if flags & libc::O_APPEND != 0 { size } else { u64::try_from(offset).unwrap_or_default() }
}

/// Writes at `offset`, or where the descriptor stands.
///
/// # Safety
/// As `write` and `pwrite` of libc.
unsafe fn write_either(fd: c_int, buffer: *const c_void, count: size_t, offset: Option<off_t>) -> ssize_t {
    let kernel = |count: size_t| {
        // SAFETY: the arguments are the caller's; `count` is at most what it said.
        let written = unsafe {
            match offset {
                Some(offset) => libc::syscall(libc::SYS_pwrite64, fd, buffer, count, offset),
                None => libc::syscall(libc::SYS_write, fd, buffer, count),
            }
        };
        ssize_t::try_from(written).unwrap_or(-1)
    };
    let Some((mut held, Node::File(file), size)) = watched(fd) else { return kernel(count) };
    let at = offset.map_or_else(|| position(fd, size), |offset| u64::try_from(offset).unwrap_or_default());
    let count = match held.state().verdict(&format!("write {count} bytes at {at} of {file:?}"), true) {
        Verdict::Go => count,
        Verdict::Half if count > 1 => count / 2,
        Verdict::Half => return fail(libc::ENOSPC) as ssize_t,
        Verdict::Fail(number) => return fail(number) as ssize_t,
    };
    let written = kernel(count);
    let Some(length) = usize::try_from(written).ok().filter(|length| *length > 0) else { return written };
    // SAFETY: the kernel has just read so many bytes from there.
    let bytes: Arc<[u8]> = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length) }.into();
    held.record(Op::Write { file, offset: at, bytes });
    written
}

/// # Safety
/// As `write` of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: promised by the caller.
    unsafe { write_either(fd, buffer, count, None) }
}

/// # Safety
/// As `pwrite` of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    // SAFETY: promised by the caller.
    unsafe { write_either(fd, buffer, count, Some(offset)) }
}

/// # Safety
/// As `pwrite64` of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pwrite64(fd: c_int, buffer: *const c_void, count: size_t, offset: off_t) -> ssize_t {
    // SAFETY: promised by the caller.
    unsafe { write_either(fd, buffer, count, Some(offset)) }
}

fn truncate_either(fd: c_int, size: off_t) -> c_int {
    // SAFETY: no memory is involved.
    let kernel = || narrow(unsafe { libc::syscall(libc::SYS_ftruncate, fd, size) });
    let Some((mut held, Node::File(file), _)) = watched(fd) else { return kernel() };
    if let Verdict::Fail(number) = held.state().verdict(&format!("truncate {file:?} to {size}"), false) {
        return fail(number);
    }
    let result = kernel();
    if result == 0 {
        held.record(Op::Truncate { file, size: u64::try_from(size).unwrap_or_default() });
    }
    result
}

/// As `ftruncate` of libc.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn ftruncate(fd: c_int, size: off_t) -> c_int {
    truncate_either(fd, size)
}

/// As `ftruncate64` of libc.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn ftruncate64(fd: c_int, size: off_t) -> c_int {
    truncate_either(fd, size)
}

fn sync_either(fd: c_int, call: c_long) -> c_int {
    // SAFETY: no memory is involved.
    let Some((mut held, node, _)) = watched(fd) else { return narrow(unsafe { libc::syscall(call, fd) }) };
    let (what, lie) = match &node {
        Node::File(file) => (format!("sync {file:?}"), Lie::Files),
        Node::Directory(name) => (format!("sync the directory {name:?}"), Lie::Directories),
    };
    let verdict = held.state().verdict(&what, false);
    let lied = held.state().lie == lie;
    match (node, verdict) {
        (Node::File(file), Verdict::Fail(number)) => {
            held.record(Op::SyncFailed { file });
            return fail(number);
        }
        (Node::Directory(_), Verdict::Fail(number)) => return fail(number),
        (_, Verdict::Go | Verdict::Half) if lied => {}
        (Node::File(file), Verdict::Go | Verdict::Half) => held.record(Op::Sync { file }),
        (Node::Directory(name), Verdict::Go | Verdict::Half) => held.record(Op::SyncDirectory { name }),
    }
    0
}

/// As `fsync` of libc.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn fsync(fd: c_int) -> c_int {
    sync_either(fd, libc::SYS_fsync)
}

/// As `fdatasync` of libc. A length that has grown counts as data, as it does for the kernel.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync_either(fd, libc::SYS_fdatasync)
}

/// # Safety
/// As `rename` of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the arguments are the caller's.
    let kernel = || narrow(unsafe { libc::syscall(libc::SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0) });
    // SAFETY: promised by the caller; the lock is not held while the second path is looked at.
    let (to_name, from_held) = unsafe { (watched_path(to).map(|(_, name)| name), watched_path(from)) };
    let Some((mut held, from_name)) = from_held else { return kernel() };
    let Some(to_name) = to_name else { return kernel() };
    if let Verdict::Fail(number) = held.state().verdict(&format!("rename {from_name} to {to_name}"), false) {
        return fail(number);
    }
    // SAFETY: promised by the caller.
    let replaced = unsafe { inspect_path(AT_FDCWD, to) };
    let result = kernel();
    if result == 0 {
        held.record(Op::Rename { from: from_name, to: to_name });
        if let Some(found) = replaced {
            held.gone(found.identity);
        }
    }
    result
}

/// # Safety
/// `path` ends with a zero byte.
unsafe fn remove_either(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the arguments are the caller's.
    let kernel = || narrow(unsafe { libc::syscall(libc::SYS_unlinkat, AT_FDCWD, path, flags) });
    // SAFETY: promised by the caller.
    let Some((mut held, name)) = (unsafe { watched_path(path) }) else { return kernel() };
    if let Verdict::Fail(number) = held.state().verdict(&format!("remove {name}"), false) {
        return fail(number);
    }
    // SAFETY: promised by the caller.
    let before = unsafe { inspect_path(AT_FDCWD, path) };
    let result = kernel();
    if result == 0 {
        held.record(Op::Unlink { name });
        if let Some(found) = before {
            held.gone(found.identity);
        }
    }
    result
}

/// # Safety
/// As `unlinkat` of libc. Whole trees are removed by it, which production does to what it does not need after a start: that is not
/// recorded, only that the files are gone.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn unlinkat(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    if record::any() {
        // SAFETY: promised by the caller.
        if let Some(found) = unsafe { inspect_path(directory, path) } {
            record::gone(found.identity);
        }
    }
    // SAFETY: the arguments are the caller's.
    narrow(unsafe { libc::syscall(libc::SYS_unlinkat, directory, path, flags) })
}

/// # Safety
/// As `unlink` of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { remove_either(path, 0) }
}

/// # Safety
/// As `rmdir` of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { remove_either(path, libc::AT_REMOVEDIR) }
}

/// # Safety
/// As `mkdir` of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the arguments are the caller's.
    let kernel = || narrow(unsafe { libc::syscall(libc::SYS_mkdirat, AT_FDCWD, path, c_long::from(mode)) });
    // SAFETY: promised by the caller.
    let Some((mut held, name)) = (unsafe { watched_path(path) }) else { return kernel() };
    // SAFETY: promised by the caller. One that exists already is no attempt: programs make sure of directories.
    if unsafe { libc::access(path, libc::F_OK) } != 0
        && let Verdict::Fail(number) = held.state().verdict(&format!("make {name}"), true)
    {
        return fail(number);
    }
    let result = kernel();
    if result == 0 {
        held.record(Op::MakeDirectory { name });
    }
    result
}
