//! Sources that are not there, lead elsewhere, or do not answer.

use std::os::unix::fs::symlink;

use futures::future::join_all;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use shoal_agent_ground::blocking::{THREADS, VOLUMES};
use shoal_agent_ground::testing::skip_without_root;

use super::*;

async fn refused(path: PathBuf) -> String {
    find_bind_source(path, false).await.unwrap_err().to_string()
}

#[tokio::test]
async fn sources() {
    let dir = tempfile::tempdir().unwrap();
    find_bind_source(dir.path().into(), false).await.unwrap();
    let missing = dir.path().join("missing");
    let expected = format!("bind source `{}`", missing.display());
    assert_eq!(refused(missing).await, expected);
    for odd in ["a", "/a/../b"] {
        let expected = format!("bind source `{odd}` must be an absolute path without `..`");
        assert_eq!(refused(odd.into()).await, expected);
    }
}

#[tokio::test]
async fn sources_are_found_through_links() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("real/below")).unwrap();
    fs::write(at("real/file"), "").unwrap();
    symlink(at("real"), at("absolute")).unwrap();
    symlink("../absolute/below/..", at("real/relative")).unwrap();
    symlink("../../../../../../../../../../../../..", at("up")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("circle", at("circle")).unwrap();
    let up = at("up").join(at("real").strip_prefix("/").unwrap());
    let good = [at("absolute/below"), at("absolute/relative/file"), at("absolute/relative"), up];
    for path in good {
        let found = find_bind_source(path.clone(), false).await;
        found.unwrap_or_else(|e| panic!("{}: {e:?}", path.display()));
    }
    for (path, why) in [
        ("dangling", Errno::NOENT),
        ("circle", Errno::LOOP),
        ("real/file/x", Errno::NOTDIR),
        ("absolute/none", Errno::NOENT),
    ] {
        let error = find_bind_source(at(path), false).await.unwrap_err();
        let VolumeError::Source { source, .. } = error else { panic!("{path}: {error:?}") };
        assert_eq!(source.raw_os_error(), Some(why.raw_os_error()), "{path}");
    }
}

#[tokio::test]
async fn a_way_goes_from_one_file_system_to_the_next() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("a b");
    fs::create_dir(&at).unwrap();
    mount("tmpfs", &at, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
    let found = async {
        symlink(&at, dir.path().join("link"))?;
        symlink("link/../a b/file", dir.path().join("back"))?;
        fs::write(at.join("file"), "")?;
        let through = dir.path().join("link/file");
        let found = [at.clone(), at.join("file"), through, dir.path().join("back")];
        let found = join_all(found.map(|path| find_bind_source(path, false))).await;
        let made = find_bind_source(dir.path().join("link/new/er"), true).await;
        let table = MountTable::read().await?;
        let text = fs::read_dir(at.join("new"))?.count();
        io::Result::Ok((found, made, table.of(&at.join("new/er")).to_owned(), text))
    };
    let result = found.await;
    unmount(&at, UnmountFlags::DETACH).unwrap();
    let (found, made, on, entries) = result.unwrap();
    for one in found {
        one.unwrap();
    }
    made.unwrap();
    assert_eq!((on, entries), (at, 1));
}

#[test]
fn subpaths() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    symlink("/etc", dir.path().join("a/etc")).unwrap();
    assert_eq!(subpath(dir.path(), "a/b").unwrap(), dir.path().join("a/b"));
    for bad in ["", "/a", "../x", "a/../b"] {
        assert!(matches!(subpath(dir.path(), bad), Err(VolumeError::SubpathInvalid { .. })));
    }
    for bad in ["a/c", "a/etc", "a/etc/passwd"] {
        assert!(matches!(subpath(dir.path(), bad), Err(VolumeError::Subpath { .. })), "{bad}");
    }
}

/// However many containers want it, however many paths of it, and through whatever links.
#[test]
fn a_source_that_does_not_answer_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/dead/linked", dir.path().join("link")).unwrap();
    let linked = dir.path().join("link");
    let (answer, answered) = std::sync::mpsc::channel::<()>();
    let answered = Arc::new(Mutex::new(answered));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(THREADS).enable_all().build().unwrap();
    runtime.block_on(async {
        // Long enough for nine looks, one after the other, at a file system that does answer.
        let patience = Duration::from_secs(3);
        let find = |path: &Path, dead: &str| {
            let answered = answered.clone();
            let (source, dead) = (path.to_owned(), dead.to_owned());
            let table = format!("1 1 0:1 / / rw\n1 1 0:2 / /dead rw\n1 1 0:2 / {dead} rw\n");
            let mounts =
                move || std::future::ready(Ok(MountTable::parse(table.as_bytes()))).boxed();
            let hang = move |mounts: &MountTable, way: Way| {
                if way.at.to_string_lossy().starts_with("/dead") {
                    let _ = answered.lock().unwrap().recv();
                    return Ok(None);
                }
                go(&source, false, mounts, way)
            };
            in_time(path.to_owned(), patience, mounts, hang)
        };
        let dead = |n: usize| PathBuf::from(format!("/dead/{n}"));
        let paths: Vec<PathBuf> =
            (0..200).map(dead).chain((0..9).map(|_| linked.clone())).collect();
        let errors = join_all(paths.iter().map(|path| find(path, "/dead"))).await;
        let errors: Vec<String> = errors.into_iter().map(|e| e.unwrap_err().to_string()).collect();
        let said = |n: usize, how: &str| {
            errors[n] == format!("bind source `{}` {how}", paths[n].display())
        };
        // Whoever came first, by whatever thread was quickest.
        let silent = |n: &usize| said(*n, "did not answer within 3s");
        assert_eq!((0..paths.len()).filter(silent).count(), 1, "{errors:?}");
        let waits = "waited 3s for its turn: its file system, at `/dead`, did not answer";
        let waited = (0..paths.len()).filter(|n| said(*n, waits)).count();
        assert_eq!(waited, paths.len() - 1, "{errors:?}");
        // That was one thread, and what is on another file system answers.
        find(dir.path(), "/dead").await.unwrap();
        find_bind_source("/".into(), false).await.unwrap();
        // Each of many file systems may cost one, and then it is said.
        let many = (0..40).map(|n| {
            let at = format!("/dead-{n}");
            async move { find(Path::new(&at), &at).await }
        });
        let many = join_all(many).await;
        let many: Vec<String> = many.into_iter().map(|e| e.unwrap_err().to_string()).collect();
        let crowded = "waited 3s for its turn: too many other file systems did not answer";
        assert!(many[39].ends_with(crowded), "{many:?}");
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        VOLUMES.run(|| ()).await.unwrap();
        drop(answer);
        find_bind_source("/".into(), false).await.unwrap();
    });
}

#[tokio::test]
async fn a_missing_source_is_made_if_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    find_bind_source(path.clone(), false).await.unwrap_err();
    find_bind_source(path.clone(), true).await.unwrap();
    assert!(path.is_dir());
}
