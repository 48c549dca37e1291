//! The real driver: directories under the agent's state directory.
//!
//! ```text
//! <dir>/<name>/volume.json   the configuration
//! <dir>/<name>/_data         the data, or the place where a tmpfs is mounted
//! <dir>/<name>/users/        an empty file for each container that uses it
//! <dir>/<name>/populating    files of an image are being copied in, for a first user
//! <dir>/.new-*  .gone-*      volumes that are being made or removed
//! <dir>/.scratch             mount points that are used for a moment
//! ```

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustix::mount::{MountFlags as Flags, UnmountFlags, mount, unmount};
use shoal_agent_ground::blocking::{COPY, Class, FOREIGN, VOLUMES};
use shoal_agent_ground::disk;
use shoal_agent_planning::volume::{LOCAL, check_name};
use shoal_durable::{Fields, Format, Lasting};
use shoal_types::error_chain::chain;
use shoal_types::question::NodeVolume;
use shoal_types::time::Timestamp;

use super::copy::{self, CopyError};
use super::files::{clear, make_dir, names_in, remove_file, remove_tree};
use super::overlay::{clean_scratch, is_mount_point, open_target};
use super::source::find_bind_source;
use super::turns::Turns;
use super::{
    ImageFiles, LocalVolume, Measured, MountFlags, MountedVolume, VolumeConfig, VolumeDriver,
    VolumeError,
};

const CONFIG: &str = "volume.json";
const DATA: &str = "_data";
const USERS: &str = "users";
const POPULATING: &str = "populating";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
const SCRATCH: &str = ".scratch";

/// Local volumes of one host. Volumes in memory are mounted in the mount namespace of the agent;
/// a container that is to have one is started after [`VolumeDriver::mount`].
#[derive(Debug, Clone)]
pub struct LocalVolumes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// Held while something is done about a volume, so that two containers that start with the
    /// same new one do not fill it twice.
    turns: Turns<String>,
}

impl LocalVolumes {
    /// Opens the volumes in a directory, which is made if need be, and finishes what an earlier
    /// agent was killed in.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, VolumeError> {
        let dir = dir.into();
        // A container's root may leave set-user-ID programs in a volume: nobody else of the host gets
        // to them. Set every time, for what an earlier version made.
        make_dir(&dir, 0o700)?;
        clean_scratch(&dir.join(SCRATCH))?;
        for name in names_in(&dir)? {
            if name.starts_with(NEW) || name.starts_with(GONE) {
                remove_tree(&dir.join(name))?;
            }
        }
        Ok(Self { shared: Arc::new(Shared { dir, turns: Turns::new() }) })
    }

    /// Works on one volume, off the runtime's threads and one call after the other. Whoever waits for
    /// its turn has no thread meanwhile.
    fn with_volume<T: Send + 'static>(
        &self,
        class: &'static Class,
        name: String,
        act: impl FnOnce(&Shared, &str) -> Result<T, VolumeError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, VolumeError>> {
        async move {
            let turn = self.turn(&name).await?;
            let done = self.in_turn(turn, class, name, act).await?;
            Ok(done.1)
        }
        .boxed()
    }

    async fn turn(&self, name: &str) -> Result<Turn, VolumeError> {
        check_name(name)?;
        Ok(self.shared.turns.take(name.to_owned()).await)
    }

    /// Works on one volume in a turn that goes on after it, unless nobody waits for that any more: then
    /// it lasts until the work is done.
    async fn in_turn<T: Send + 'static>(
        &self,
        turn: Turn,
        class: &'static Class,
        name: String,
        act: impl FnOnce(&Shared, &str) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<(Turn, T), VolumeError> {
        let shared = self.shared.clone();
        let work = move || act(&shared, &name).map(|done| (turn, done));
        class.run(work).await.map_err(|_| VolumeError::HelperGone)?
    }
}

/// What a volume is.
enum ConfigFile {}

impl Format for ConfigFile {
    type Content = VolumeConfig;
    const NAME: &'static str = "volume";
    const VERSION: u32 = 1;

    /// Version 0 had no version and the same fields.
    fn upgrade(from: u32, fields: Fields) -> Option<Fields> {
        (from == 0).then_some(fields)
    }
}

/// A turn at a volume.
type Turn = tokio::sync::OwnedMutexGuard<()>;

/// A volume that is ready for a user but for the image's files.
struct Ready {
    mounted: MountedVolume,
    /// Whether the user was known before.
    known: bool,
    /// Whether the user has it for itself.
    alone: bool,
    /// Whether it lacks the image's files, as far as can be told.
    lacks: bool,
}

impl Shared {
    fn volume(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Result<Option<VolumeConfig>, VolumeError> {
        let path = self.volume(name).join(CONFIG);
        Ok(shoal_durable::read::<ConfigFile>(&path)?)
    }

    /// Every volume there is, whether or not its configuration can be read. What else lies about is
    /// none of ours.
    fn names(&self) -> Result<Vec<String>, VolumeError> {
        let mut names = names_in(&self.dir)?;
        names.retain(|name| check_name(name).is_ok() && self.volume(name).is_dir());
        Ok(names)
    }

    fn known(&self, name: &str) -> Result<(VolumeConfig, LocalVolume), VolumeError> {
        let config =
            self.read(name)?.ok_or_else(|| VolumeError::Unknown { name: name.to_owned() })?;
        let local = config.local()?;
        Ok((config, local))
    }

    fn bind_source(&self, name: &str) -> Result<Option<PathBuf>, VolumeError> {
        match self.known(name)?.1 {
            LocalVolume::Bind { source, .. } => Ok(Some(source.into())),
            LocalVolume::Directory | LocalVolume::Tmpfs { .. } => Ok(None),
        }
    }

    /// Who uses a volume. On disk, so that a new agent knows it before it hears of any container.
    fn users(&self, name: &str) -> Result<Vec<String>, VolumeError> {
        match names_in(&self.volume(name).join(USERS)) {
            Err(VolumeError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            users => users,
        }
    }

    fn enter_user(&self, name: &str, user: &str) -> Result<(), VolumeError> {
        check_name(user).map_err(|_| VolumeError::User { user: user.to_owned() })?;
        let dir = self.volume(name).join(USERS);
        make_dir(&dir, 0o700)?;
        let file = dir.join(user);
        File::create(&file).map(drop).map_err(VolumeError::file("create", file))
    }

    fn describe(&self, name: &str) -> Result<NodeVolume, VolumeError> {
        let (config, local) = self.known(name)?;
        let path = self.volume(name).join(CONFIG);
        // It is written once, when the volume is made.
        let made = fs::metadata(&path).and_then(|file| file.modified());
        let made = made.map_err(VolumeError::file("look at", path))?;
        let since = made.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mountpoint = match local {
            LocalVolume::Bind { source, .. } => source,
            LocalVolume::Directory | LocalVolume::Tmpfs { .. } => {
                self.volume(name).join(DATA).to_string_lossy().into_owned()
            }
        };
        let driver = if config.driver.is_empty() { LOCAL.to_owned() } else { config.driver };
        Ok(NodeVolume {
            name: config.name,
            driver,
            options: config.options,
            labels: config.labels,
            mountpoint,
            created_at: Timestamp::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
            users: self.users(name)?,
        })
    }

    /// Strikes out users, and unmounts what nobody uses.
    fn leave(&self, name: &str, gone: impl Fn(&str) -> bool) -> Result<(), VolumeError> {
        let (gone, left): (Vec<String>, Vec<String>) =
            self.users(name)?.into_iter().partition(|user| gone(user));
        for user in gone {
            remove_file(&self.volume(name).join(USERS).join(user))?;
        }
        if left.is_empty() && self.mounts(name) { self.unmount(name) } else { Ok(()) }
    }

    /// Whether what is mounted at its place is this driver's: of a volume that cannot be read anything
    /// may be. A disk that somebody has mounted there for its data is not.
    fn mounts(&self, name: &str) -> bool {
        !matches!(self.known(name), Ok((_, LocalVolume::Directory | LocalVolume::Bind { .. })))
    }

    fn ensure(&self, config: &VolumeConfig) -> Result<(), VolumeError> {
        if let Some(existing) = self.read(&config.name)? {
            let name = config.name.clone();
            let same = config.is_same_as(&existing);
            return if same { Ok(()) } else { Err(VolumeError::Differs { name }) };
        }
        // Made beside and renamed: it is there whole or not at all, also after a power cut.
        let new = self.dir.join(format!("{NEW}{}", config.name));
        remove_tree(&new)?;
        make_dir(&new, 0o711)?;
        make_dir(&new.join(DATA), 0o755)?;
        let path = new.join(CONFIG);
        shoal_durable::write::<ConfigFile>(&path, config, 0o600, Lasting::PowerCut)?;
        let write = || {
            fs::rename(&new, self.volume(&config.name))?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(VolumeError::file("write", &path))
    }

    /// Makes a volume ready for one user but for the image's files, whose copy is a part of the turn:
    /// so whoever else is a user is past its own.
    fn mount_for(&self, name: &str, user: &str, copies: bool) -> Result<Ready, VolumeError> {
        self.known(name)?;
        let users = self.users(name)?;
        self.settle(name, users.is_empty())?;
        // Entered first: what is mounted has a user that will be asked about.
        self.enter_user(name, user)?;
        let alone = users.iter().all(|other| other == user);
        let known = users.iter().any(|known| known == user);
        let ready = self.mount(name).and_then(|mounted| {
            let lacks = copies && !mounted.read_only && empty_at(&mounted.path)?.is_some();
            Ok(Ready { mounted, known, alone, lacks })
        });
        if ready.is_err() && !known {
            self.leave(name, |other| other == user)?;
        }
        ready
    }

    /// Gives it the image's files.
    fn fill(
        &self,
        name: &str,
        user: &str,
        image: &ImageFiles,
        ready: Ready,
    ) -> Result<MountedVolume, VolumeError> {
        let Ready { mut mounted, known, alone, .. } = ready;
        match self.populate(name, &mounted.path, image, alone) {
            Ok(populated) => {
                mounted.populated = populated;
                Ok(mounted)
            }
            Err(error) => {
                if !known {
                    self.leave(name, |other| other == user)?;
                }
                Err(error)
            }
        }
    }

    fn mount(&self, name: &str) -> Result<MountedVolume, VolumeError> {
        let data = self.volume(name).join(DATA);
        match self.known(name)?.1 {
            LocalVolume::Directory => Ok(MountedVolume::new(data, false)),
            LocalVolume::Bind { source, read_only } => {
                Ok(MountedVolume::new(source.into(), read_only))
            }
            LocalVolume::Tmpfs { flags, data: options } => {
                let failed = || VolumeError::file("mount a tmpfs on", &data);
                if !is_mount_point(&data).map_err(failed())? {
                    let options = CString::new(options).map_err(io::Error::from);
                    let options = options.map_err(failed())?;
                    // Read-only is left to the containers, or nothing could ever be in it.
                    mount("tmpfs", &data, "tmpfs", mount_flags(flags), options.as_c_str())
                        .map_err(io::Error::from)
                        .map_err(failed())?;
                }
                Ok(MountedVolume::new(data, flags.read_only))
            }
        }
    }

    fn unmount(&self, name: &str) -> Result<(), VolumeError> {
        let data = self.volume(name).join(DATA);
        match unmount(&data, UnmountFlags::DETACH) {
            // Not mounted, or no such volume.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(VolumeError::file("unmount", data)(errno)),
        }
    }

    fn remove(&self, name: &str) -> Result<(), VolumeError> {
        self.unmount(name)?;
        let gone = self.dir.join(format!("{GONE}{name}"));
        remove_tree(&gone)?;
        match fs::rename(self.volume(name), &gone) {
            Ok(()) => remove_tree(&gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(VolumeError::file("remove", self.volume(name))(source)),
        }
    }

    /// Deals with a copy that was cut off: half a copy would look like data for ever. Who has the
    /// volume may have written to it since, so only one that nobody has is cleared, and whoever gets
    /// it next finds the marker gone for good.
    fn settle(&self, name: &str, clear_it: bool) -> Result<(), VolumeError> {
        let marker = self.volume(name).join(POPULATING);
        if !marker.try_exists().map_err(VolumeError::file("look for", &marker))? {
            return Ok(());
        }
        // What a bind leads to is not ours to clear; nor is it marked.
        if clear_it && !matches!(self.known(name)?.1, LocalVolume::Bind { .. }) {
            let data = self.volume(name).join(DATA);
            clear(&data)?;
            let sync = || rustix::fs::syncfs(File::open(&data)?).map_err(io::Error::from);
            sync().map_err(VolumeError::file("sync", &data))?;
        }
        self.unmark(name)
    }

    /// Durably, as what is written from now on is to stay.
    fn unmark(&self, name: &str) -> Result<(), VolumeError> {
        let dir = self.volume(name);
        remove_file(&dir.join(POPULATING))?;
        let sync = || File::open(&dir)?.sync_all();
        sync().map_err(VolumeError::file("sync", &dir))
    }

    /// Where somebody else has the volume, the copy is not marked: what is in it then may be theirs.
    fn populate(
        &self,
        name: &str,
        path: &Path,
        image: &ImageFiles,
        alone: bool,
    ) -> Result<bool, VolumeError> {
        let Some(to) = empty_at(path)? else { return Ok(false) };
        let from = open_target(image, &self.dir.join(SCRATCH))?;
        let Some(from) = from else { return Ok(true) };
        let ours = !matches!(self.known(name)?.1, LocalVolume::Bind { .. });
        let marked = alone && ours;
        if marked {
            let marker = self.volume(name).join(POPULATING);
            let mark = || File::create(&marker)?.sync_all();
            mark().map_err(VolumeError::file("write", &marker))?;
        }
        let copied = copy::copy_tree(from.as_fd(), to.as_fd()).map_err(|error| match error {
            CopyError::TooDeep => {
                VolumeError::TooDeep { target: image.target.clone(), limit: copy::DEPTH_MAX }
            }
            CopyError::Io(source) => VolumeError::file("copy the image's files to", path)(source),
        });
        let copied =
            copied.and_then(|()| rustix::fs::syncfs(&to).map_err(VolumeError::file("sync", path)));
        match copied {
            Ok(()) if marked => self.unmark(name).map(|()| true),
            Ok(()) => Ok(true),
            Err(error) => {
                // The next one would take it for data. If this fails too, the marker stays for it.
                let _ = self.settle(name, true);
                Err(error)
            }
        }
    }
}

impl VolumeDriver for LocalVolumes {
    fn ensure(&self, config: VolumeConfig) -> BoxFuture<'_, Result<(), VolumeError>> {
        let name = config.name.clone();
        self.with_volume(&VOLUMES, name, move |shared, _| {
            config.local()?;
            shared.ensure(&config)
        })
    }

    fn mount(
        &self,
        name: String,
        user: String,
        image: Option<ImageFiles>,
    ) -> BoxFuture<'_, Result<MountedVolume, VolumeError>> {
        async move {
            let source = |shared: &Shared, name: &str| shared.bind_source(name);
            let source = self.with_volume(&VOLUMES, name.clone(), source).await?;
            // What is looked at then is not ours.
            let looks = if source.is_some() && image.is_some() { &FOREIGN } else { &VOLUMES };
            if let Some(source) = source {
                // It may be on a file system that does not answer: not in the turn.
                find_bind_source(source, false).await?;
            }
            let (copies, who) = (image.is_some(), user.clone());
            let mount = move |shared: &Shared, name: &str| shared.mount_for(name, &who, copies);
            let turn = self.turn(&name).await?;
            let (turn, ready) = self.in_turn(turn, looks, name.clone(), mount).await?;
            // Only a first user's image may take long.
            match image.filter(|_| ready.lacks) {
                None => Ok(ready.mounted),
                Some(image) => {
                    let fill =
                        move |shared: &Shared, name: &str| shared.fill(name, &user, &image, ready);
                    Ok(self.in_turn(turn, &COPY, name, fill).await?.1)
                }
            }
        }
        .boxed()
    }

    fn unmount(&self, name: String, user: String) -> BoxFuture<'_, Result<(), VolumeError>> {
        self.with_volume(&VOLUMES, name, move |shared, name| {
            shared.leave(name, |other| other == user)
        })
    }

    fn remove(&self, name: String) -> BoxFuture<'_, Result<(), VolumeError>> {
        self.with_volume(&VOLUMES, name, |shared, name| {
            let users = shared.users(name)?;
            if users.is_empty() {
                return shared.remove(name);
            }
            Err(VolumeError::InUse { name: name.to_owned(), users })
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<VolumeConfig>, VolumeError>> {
        let shared = self.shared.clone();
        let work = move || {
            let mut all = Vec::new();
            for name in shared.names()? {
                match shared.read(&name) {
                    // One that is being removed meanwhile is no more.
                    Ok(config) => all.extend(config),
                    Err(error) => {
                        let error = chain(&error);
                        tracing::warn!(volume = name, %error, "a volume is left out");
                    }
                }
            }
            Ok(all)
        };
        async move { VOLUMES.run(work).await.map_err(|_| VolumeError::HelperGone)? }.boxed()
    }

    fn describe(&self) -> BoxFuture<'_, Result<Vec<NodeVolume>, VolumeError>> {
        let shared = self.shared.clone();
        let work = move || {
            let mut all = Vec::new();
            for name in shared.names()? {
                match shared.describe(&name) {
                    Ok(volume) => all.push(volume),
                    // One that is being removed meanwhile is no more.
                    Err(VolumeError::Unknown { .. }) => {}
                    Err(error) => {
                        let error = chain(&error);
                        tracing::warn!(volume = name, %error, "a volume is left out");
                    }
                }
            }
            Ok(all)
        };
        async move { VOLUMES.run(work).await.map_err(|_| VolumeError::HelperGone)? }.boxed()
    }

    fn mounted(&self) -> BoxFuture<'_, Result<BTreeSet<String>, VolumeError>> {
        let shared = self.shared.clone();
        let work = move || {
            // One that is being removed meanwhile has nothing mounted.
            let mounted = |name: &String| {
                let at = shared.volume(name).join(DATA);
                is_mount_point(&at).unwrap_or(false) && shared.mounts(name)
            };
            Ok(shared.names()?.into_iter().filter(mounted).collect())
        };
        async move { VOLUMES.run(work).await.map_err(|_| VolumeError::HelperGone)? }.boxed()
    }

    fn measure(&self, name: String) -> BoxFuture<'_, Measured> {
        let shared = self.shared.clone();
        disk::measure(move || match shared.known(&name) {
            Ok((_, LocalVolume::Directory | LocalVolume::Tmpfs { .. })) => {
                Some(shared.volume(&name).join(DATA))
            }
            _ => None,
        })
        .boxed()
    }

    fn collect(&self, users: BTreeSet<String>) -> BoxFuture<'_, Result<(), VolumeError>> {
        async move {
            let users = Arc::new(users);
            let mut result = Ok(());
            let shared = self.shared.clone();
            let names = VOLUMES.run(move || shared.names()).await;
            for name in names.map_err(|_| VolumeError::HelperGone)?? {
                let users = users.clone();
                let leave = move |shared: &Shared, name: &str| {
                    shared.leave(name, |user| !users.contains(user))
                };
                let done = self.with_volume(&VOLUMES, name, leave).await;
                result = result.and(done);
            }
            result
        }
        .boxed()
    }
}

/// A directory, if there is one at a path and nothing is in it.
fn empty_at(path: &Path) -> Result<Option<File>, VolumeError> {
    if !path.is_dir() {
        return Ok(None);
    }
    let directory = File::open(path).map_err(VolumeError::file("open", path))?;
    let empty = copy::is_empty(&directory).map_err(VolumeError::file("list", path))?;
    Ok(empty.then_some(directory))
}

fn mount_flags(flags: MountFlags) -> Flags {
    let mut all = Flags::empty();
    all.set(Flags::NOSUID, flags.nosuid);
    all.set(Flags::NODEV, flags.nodev);
    all.set(Flags::NOEXEC, flags.noexec);
    all.set(Flags::NOATIME, flags.noatime);
    all
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod golden {
    use super::*;

    #[test]
    fn volumes_of_every_version_are_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let config = VolumeConfig {
            name: "data".to_owned(),
            driver: "local".to_owned(),
            options: [("type".to_owned(), "tmpfs".to_owned())].into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
        };
        shoal_durable::testing::check_golden::<ConfigFile>(&golden, &config);
    }
}
