//! Who a container runs as: names looked up in the image's own files, never outside of them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::protocol::Failure;

/// Largest account file that is read.
const FILE_MAX: u64 = 4 << 20;

/// A user in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// Looks up `user[:group]` in the files of a root directory, by Docker's rules: a number needs no
/// entry; without a group the user's own from the file, or 0; the groups that list the user as a
/// member are added only when no group is given.
///
/// # Errors
/// [`Failure::UnknownUser`] when a name is not there, [`Failure::Other`] when a file cannot be read.
pub fn resolve(root: &Path, user: &str) -> Result<Identity, Failure> {
    let passwd = read(root, "etc/passwd")?;
    let group = read(root, "etc/group")?;
    lookup(user, &passwd, &group)
        .map_err(|reason| Failure::UnknownUser { user: user.to_owned(), reason })
}

fn lookup(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (name, group_name) = match user.split_once(':') {
        Some((u, g)) => (u, Some(g)),
        None => (user, None),
    };
    let number: Option<u32> = name.parse().ok();
    let entry = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| {
        let id = f.get(2).and_then(|id| id.parse::<u32>().ok());
        f.first() == Some(&name) || (number.is_some() && id == number)
    });
    let field = |i: usize| -> Option<u32> {
        entry.as_ref().and_then(|f| f.get(i)).and_then(|id| id.parse().ok())
    };
    let uid = match (name, field(2), number) {
        ("", _, _) => 0,
        (_, Some(uid), _) | (_, None, Some(uid)) => uid,
        _ => return Err(format!("no user {name:?} in /etc/passwd of the image")),
    };
    if let Some(group_name) = group_name.filter(|g| !g.is_empty()) {
        let gid = group_number(group_name, group)?;
        return Ok(Identity { uid, gid, additional_gids: Vec::new() });
    }
    let gid = field(3).unwrap_or(0);
    let login = entry.as_ref().and_then(|f| f.first().copied()).unwrap_or(name);
    let additional_gids = member_of(login, group).into_iter().filter(|g| *g != gid).collect();
    Ok(Identity { uid, gid, additional_gids })
}

fn group_number(name: &str, group: &str) -> Result<u32, String> {
    let found = group.lines().find_map(|l| {
        let mut f = l.split(':');
        (f.next() == Some(name)).then(|| f.nth(1).and_then(|id| id.parse().ok())).flatten()
    });
    found
        .or_else(|| name.parse().ok())
        .ok_or_else(|| format!("no group {name:?} in /etc/group of the image"))
}

fn member_of(login: &str, group: &str) -> Vec<u32> {
    let mut gids: Vec<u32> = group
        .lines()
        .filter_map(|l| {
            let f: Vec<&str> = l.split(':').collect();
            let listed = f.get(3)?.split(',').any(|m| m.trim() == login);
            listed.then(|| f.get(2)?.parse().ok()).flatten()
        })
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// A file of the image, with every link resolved inside the image. Missing is empty.
fn read(root: &Path, file: &str) -> Result<String, Failure> {
    let text = || -> io::Result<String> {
        let root = open_root(root)?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // Non-blocking: it could be a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = openat2(&root, file, flags, Mode::empty(), resolve)?;
        let file = File::from(fd);
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > FILE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of sane size"));
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match text() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(Failure::other(&format!("reading /{file} of the image"), &e)),
        Ok(text) => Ok(text),
    }
}

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, root, flags, Mode::empty())?)
}

/// Makes a directory of a container with all its parents, inside the container's root whatever links
/// lie on the way (a link to the host's directory would otherwise be followed there).
///
/// # Errors
/// The kernel's answer.
pub fn make_dir_in_root(root: &Path, dir: &Path) -> io::Result<()> {
    let root = open_root(root)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat2(&root, ".", flags, Mode::empty(), resolve)?;
    let mut sofar = std::path::PathBuf::new();
    for part in dir.components() {
        let std::path::Component::Normal(name) = part else { continue };
        sofar.push(name);
        at = match openat2(&root, &sofar, flags, Mode::empty(), resolve) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                openat2(&root, &sofar, flags, Mode::empty(), resolve)?
            }
            Err(e) => return Err(e.into()),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\nbroken\n7:x:8:9";
    const GROUP: &str = "root:x:0:\napp:x:1001:app\nwheel:x:10:root,app\naudio:x:63:app\n";

    #[test]
    fn users_are_looked_up_as_docker_does() {
        let id = |uid, gid, more: &[u32]| Ok(Identity { uid, gid, additional_gids: more.to_vec() });
        let table = [
            ("", id(0, 0, &[])),
            ("root", id(0, 0, &[10])),
            ("app", id(1000, 1001, &[10, 63])),
            ("1000", id(1000, 1001, &[10, 63])),
            ("app:audio", id(1000, 63, &[])),
            ("app:5", id(1000, 5, &[])),
            ("4242", id(4242, 0, &[])),
            ("4242:4343", id(4242, 4343, &[])),
            ("7", id(8, 9, &[])),
            ("nobody", Err("no user \"nobody\" in /etc/passwd of the image".to_owned())),
            ("app:nope", Err("no group \"nope\" in /etc/group of the image".to_owned())),
            ("-1", Err("no user \"-1\" in /etc/passwd of the image".to_owned())),
        ];
        for (user, expected) in table {
            assert_eq!(lookup(user, PASSWD, GROUP), expected, "{user:?}");
        }
    }

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(host.path().join("passwd"), "evil:x:66:66::/:/bin/sh\n").unwrap();
        std::os::unix::fs::symlink(host.path().join("passwd"), root.join("etc/passwd")).unwrap();
        assert!(matches!(resolve(&root, "evil"), Err(Failure::UnknownUser { .. })));
        std::os::unix::fs::symlink(host.path(), root.join("out")).unwrap();
        std::fs::create_dir(root.join("plain")).unwrap();
        make_dir_in_root(&root, Path::new("/plain/a/b")).unwrap();
        assert!(root.join("plain/a/b").is_dir());
        let _ = make_dir_in_root(&root, Path::new("/out/escaped"));
        assert!(!host.path().join("escaped").exists());
    }
}
