//! Sockets below the instance's directory.

use std::{fs, io, os::unix::net::UnixListener, path::Path};

use nix::sys::stat::{Mode, umask};

/// Listens at a path, in the place of a socket that nobody listens at any more. Only the user that runs
/// this may connect.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // From the moment it is there.
    let former = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
    let listener = UnixListener::bind(path);
    umask(former);
    listener
}
