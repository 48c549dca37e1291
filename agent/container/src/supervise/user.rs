//! Who a container runs as: names looked up in the image's own files, never outside of them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::protocol::Failure;
use super::root::RootDir;

/// Largest account file that is read.
const FILE_MAX: u64 = 4 << 20;

/// Home of who has no entry, or none in it.
pub const NO_HOME: &str = "/";

/// A user in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All groups, the user's own first: without it among them a process could shed its own group,
    /// and with it a permission that is denied to that group (CVE-2022-36109).
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Looks up `user[:group]` in the files of a root directory, by Docker's rules: nobody is user 0; a
/// number needs no entry; without a group the user's own from the file, or 0; the groups that list
/// the user as a member are added only when no group is given.
///
/// # Errors
/// [`Failure::UnknownUser`] when a name is not there, [`Failure::Other`] when a file cannot be read.
pub fn resolve(root: &Path, user: &str) -> Result<Identity, Failure> {
    let passwd = read(root, "etc/passwd")?;
    let group = read(root, "etc/group")?;
    lookup(user, &passwd, &group)
        .map_err(|reason| Failure::UnknownUser { user: user.to_owned(), reason })
}

/// A line of `/etc/passwd`: `name:password:uid:gid:comment:home:shell`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.trim().parse().ok()?;
        let gid = fields.next()?.trim().parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name, uid, gid, home })
    }
}

fn lookup(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (name, group_name) = user.split_once(':').unwrap_or((user, ""));
    let number: Option<u32> = if name.is_empty() { Some(0) } else { id(name) };
    let account = passwd
        .lines()
        .filter_map(Account::read)
        .find(|account| (!name.is_empty() && account.name == name) || Some(account.uid) == number);
    let uid = account.as_ref().map(|account| account.uid).or(number);
    let uid = uid.ok_or_else(|| format!("no user {name:?} in /etc/passwd of the image"))?;
    let home = account.as_ref().map(|account| account.home).filter(|home| !home.is_empty());
    let home = home.unwrap_or(NO_HOME).to_owned();
    if !group_name.is_empty() {
        let gid = group_number(group_name, group)?;
        return Ok(Identity { uid, gid, groups: vec![gid], home });
    }
    let Some(account) = account else {
        return Ok(Identity { uid, gid: 0, groups: vec![0], home });
    };
    let gid = account.gid;
    let more = member_of(account.name, group).into_iter().filter(|more| *more != gid);
    Ok(Identity { uid, gid, groups: std::iter::once(gid).chain(more).collect(), home })
}

/// A number that may be a user's or a group's; the last one means "unchanged" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn group_number(name: &str, group: &str) -> Result<u32, String> {
    let named = || {
        group.lines().find_map(|l| {
            let mut f = l.split(':');
            (f.next() == Some(name)).then(|| f.nth(1).and_then(id)).flatten()
        })
    };
    id(name).or_else(named).ok_or_else(|| format!("no group {name:?} in /etc/group of the image"))
}

fn member_of(login: &str, group: &str) -> Vec<u32> {
    let mut gids: Vec<u32> = group
        .lines()
        .filter_map(|l| {
            let f: Vec<&str> = l.split(':').collect();
            let listed = f.get(3)?.split(',').any(|m| m.trim() == login);
            listed.then(|| id(f.get(2)?)).flatten()
        })
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// Where home is as an environment has it. An empty value says nothing, as with runc.
#[must_use]
pub fn home(env: &[String]) -> Option<&str> {
    let value = env.iter().rev().find_map(|entry| entry.strip_prefix("HOME="));
    value.filter(|home| !home.is_empty())
}

/// Says in an environment where home is, whatever it said before.
pub fn set_home(env: &mut Vec<String>, home: &str) {
    env.retain(|entry| !entry.starts_with("HOME="));
    env.push(format!("HOME={home}"));
}

/// A file of the image, with every link resolved inside the image. Missing is empty.
fn read(root: &Path, file: &str) -> Result<String, Failure> {
    let text = || -> io::Result<String> {
        let fd = RootDir::open(root)?.read(Path::new(file))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\nbroken\n7:x:8:9\n";
    const GROUP: &str =
        "root:x:0:root\napp:x:1001:app\nwheel:x:10:root,app\naudio:x:63:app\n5:x:55:\n";

    #[test]
    fn users_are_looked_up_as_docker_does() {
        let id = |uid, gid, groups: &[u32], home: &str| {
            Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.to_owned() })
        };
        let table = [
            ("", id(0, 0, &[0, 10], "/root")),
            (":audio", id(0, 63, &[63], "/root")),
            ("root", id(0, 0, &[0, 10], "/root")),
            ("0", id(0, 0, &[0, 10], "/root")),
            ("app", id(1000, 1001, &[1001, 10, 63], "/srv")),
            ("1000", id(1000, 1001, &[1001, 10, 63], "/srv")),
            ("app:audio", id(1000, 63, &[63], "/srv")),
            ("app:", id(1000, 1001, &[1001, 10, 63], "/srv")),
            ("app:5", id(1000, 5, &[5], "/srv")),
            ("4242", id(4242, 0, &[0], "/")),
            ("4242:4343", id(4242, 4343, &[4343], "/")),
            ("7", id(8, 9, &[9], "/")),
            ("nobody", Err("no user \"nobody\" in /etc/passwd of the image".to_owned())),
            ("app:nope", Err("no group \"nope\" in /etc/group of the image".to_owned())),
            ("-1", Err("no user \"-1\" in /etc/passwd of the image".to_owned())),
            ("4294967295", Err("no user \"4294967295\" in /etc/passwd of the image".to_owned())),
        ];
        for (user, expected) in table {
            assert_eq!(lookup(user, PASSWD, GROUP), expected, "{user:?}");
        }
        assert_eq!(lookup("", "", ""), id(0, 0, &[0], "/"), "an image without accounts");
    }

    #[test]
    fn home_is_what_the_environment_says_unless_it_is_empty() {
        let table: [(&[&str], Option<&str>); 5] = [
            (&["HOME=/a"], Some("/a")),
            (&["HOME="], None),
            (&["HOME=/a", "HOME="], None),
            (&["HOMES=/a"], None),
            (&[], None),
        ];
        for (env, expected) in table {
            let mut env: Vec<String> = env.iter().map(ToString::to_string).collect();
            assert_eq!(home(&env), expected, "{env:?}");
            set_home(&mut env, "/b");
            assert_eq!(env.last().map(String::as_str), Some("HOME=/b"));
            assert_eq!(env.iter().filter(|entry| entry.starts_with("HOME=")).count(), 1);
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
    }
}
