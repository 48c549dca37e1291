//! Which references mean which images: a small list in memory and in one file.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shoal_durable::{Format, Lasting};
use shoal_types::image_ref::{Digest, ImageReference};

use super::error::StoreError;

/// One image under one reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Nothing for an image that was loaded without a name.
    pub reference: Option<ImageReference>,
    /// Digest of the configuration: the image's id.
    pub id: Digest,
    /// What the registry keeps under the tag: an index or a manifest.
    pub repo_digest: Option<Digest>,
    /// The manifest that was picked.
    pub manifest: Option<Digest>,
    /// Whether it was loaded by hand under this name.
    #[serde(default)]
    pub loaded: bool,
    /// Seconds since 1970.
    pub last_used: u64,
}

impl Record {
    /// What people know it by.
    pub(super) fn name(&self) -> String {
        self.reference.as_ref().map_or_else(|| self.id.to_string(), ToString::to_string)
    }

    /// The same image when its tag means another one now, and nobody asks for it by hand any more.
    fn under_digest(&self) -> Self {
        let reference = self.reference.as_ref().zip(self.repo_digest);
        let reference =
            reference.and_then(|(name, digest)| format!("{}@{digest}", name.name()).parse().ok());
        Self { reference, loaded: false, ..self.clone() }
    }
}

/// The file.
enum IndexFile {}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Images {
    images: Vec<Record>,
}

impl Format for IndexFile {
    type Content = Images;
    const NAME: &'static str = "images";
    const VERSION: u32 = 1;
}

/// The list.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    records: Vec<Record>,
}

impl Index {
    pub(super) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let read = shoal_durable::read::<IndexFile>(&path)?;
        Ok(Self { path, records: read.map(|read| read.images).unwrap_or_default() })
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    /// The image that a reference means. A digest decides whatever the tag says.
    pub(super) fn find(&self, reference: &ImageReference) -> Option<&Record> {
        let Some(digest) = reference.digest() else {
            return self.records.iter().find(|record| record.reference.as_ref() == Some(reference));
        };
        self.records.iter().find(|record| {
            let same_name = record.reference.as_ref().is_some_and(|known| {
                known.registry() == reference.registry()
                    && known.repository() == reference.repository()
            });
            same_name && (record.repo_digest == Some(digest) || record.manifest == Some(digest))
        })
    }

    /// Adds an image. What had its reference before stays under its digest, so that a rollback
    /// finds it until it is collected.
    pub(super) fn put(&mut self, mut record: Record) -> Result<(), StoreError> {
        let mut records = Vec::with_capacity(self.records.len() + 1);
        for known in &self.records {
            // The same again, or a better name for what had none.
            let is_nameless = known.reference.is_none();
            if known.id == record.id && (is_nameless || known.reference == record.reference) {
                record.loaded |= known.loaded;
                continue;
            }
            let known = match &known.reference {
                Some(name) if Some(name) == record.reference.as_ref() => known.under_digest(),
                _ => known.clone(),
            };
            let is_new =
                |other: &Record| other.reference != known.reference || other.id != known.id;
            if records.iter().all(is_new) {
                records.push(known);
            }
        }
        records.push(record);
        self.commit(records)
    }

    /// Removes a reference; `false` if it was not there.
    pub(super) fn remove(&mut self, reference: &ImageReference) -> Result<bool, StoreError> {
        let Some(found) = self.find(reference).cloned() else { return Ok(false) };
        let records = self.records.iter().filter(|record| **record != found).cloned().collect();
        self.commit(records)?;
        Ok(true)
    }

    /// Notes a use at once; on the disk only when what is there is older by `stale` seconds, or
    /// with the next change.
    pub(super) fn touch(
        &mut self,
        reference: &ImageReference,
        now: u64,
        stale: u64,
    ) -> Result<(), StoreError> {
        let Some(found) = self.find(reference).cloned() else { return Ok(()) };
        for record in self.records.iter_mut().filter(|record| **record == found) {
            record.last_used = now;
        }
        if now < found.last_used.saturating_add(stale) {
            return Ok(());
        }
        let records = self.records.clone();
        self.commit(records)
    }

    /// Notes that images are held by tasks, written down as by [`Index::touch`].
    pub(super) fn touch_all(
        &mut self,
        ids: &BTreeSet<Digest>,
        now: u64,
        stale: u64,
    ) -> Result<(), StoreError> {
        let mut write = false;
        for record in self.records.iter_mut().filter(|record| ids.contains(&record.id)) {
            write |= now >= record.last_used.saturating_add(stale);
            record.last_used = now;
        }
        if !write {
            return Ok(());
        }
        let records = self.records.clone();
        self.commit(records)
    }

    /// Drops records that `keep` refuses; returns them.
    pub(super) fn retain(
        &mut self,
        keep: impl Fn(&Record) -> bool,
    ) -> Result<Vec<Record>, StoreError> {
        let (kept, dropped): (Vec<_>, Vec<_>) =
            self.records.iter().cloned().partition(|record| keep(record));
        if !dropped.is_empty() {
            self.commit(kept)?;
        }
        Ok(dropped)
    }

    /// Everything that records name: configurations and manifests.
    pub(super) fn blobs(&self) -> BTreeSet<Digest> {
        self.records
            .iter()
            .flat_map(|record| [Some(record.id), record.manifest])
            .flatten()
            .collect()
    }

    /// On the disk first, then in memory.
    fn commit(&mut self, images: Vec<Record>) -> Result<(), StoreError> {
        let file = Images { images };
        shoal_durable::write::<IndexFile>(&self.path, &file, 0o600, Lasting::PowerCut)?;
        self.records = file.images;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reference: Option<&str>, id: u8, repo: Option<u8>) -> Record {
        Record {
            reference: reference.map(|text| text.parse().unwrap()),
            id: Digest::from_bytes([id; 32]),
            repo_digest: repo.map(|byte| Digest::from_bytes([byte; 32])),
            manifest: repo.map(|byte| Digest::from_bytes([byte + 100; 32])),
            loaded: false,
            last_used: 0,
        }
    }

    fn names(index: &Index) -> Vec<String> {
        let name = |record: &Record| match &record.reference {
            Some(reference) => reference.familiar().chars().take(20).collect(),
            None => "-".to_owned(),
        };
        index.records().iter().map(name).collect()
    }

    fn index(dir: &tempfile::TempDir) -> Index {
        Index::open(dir.path().join("images.json")).unwrap()
    }

    #[test]
    fn a_tag_that_moves_leaves_the_old_image_under_its_digest() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut images = index(&dir);
        images.put(record(Some("web:1"), 1, Some(11))).unwrap();
        images.put(record(Some("web:1"), 2, Some(12))).unwrap();
        assert_eq!(names(&images), ["web@sha256:0b0b0b0b0", "web:1"]);
        images.put(record(Some("web:1"), 2, Some(12))).unwrap();
        assert_eq!(images.records().len(), 2);
        let again = index(&dir);
        assert_eq!(again.records(), images.records());
        let by =
            |text: &str| again.find(&text.parse().unwrap()).map(|found| found.id.as_bytes()[0]);
        assert_eq!(by("web:1"), Some(2));
        assert_eq!(by(&format!("web@sha256:{}", "0b".repeat(32))), Some(1));
        assert_eq!(by(&format!("web:9@sha256:{}", "6f".repeat(32))), Some(1));
        assert_eq!(by(&format!("other@sha256:{}", "0b".repeat(32))), None);
        assert_eq!(by("web"), None);
    }

    #[test]
    fn loaded_images_may_have_no_name() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut images = index(&dir);
        images.put(record(None, 1, None)).unwrap();
        images.put(record(None, 2, None)).unwrap();
        images.put(record(None, 1, None)).unwrap();
        assert_eq!(images.records().len(), 2);
        images.put(record(Some("named"), 1, None)).unwrap();
        assert_eq!(names(&images), ["-", "named:latest"]);
        images.put(record(Some("named"), 3, None)).unwrap();
        assert_eq!(names(&images), ["-", "-", "named:latest"]);
        assert!(images.remove(&"named".parse().unwrap()).unwrap());
        assert!(!images.remove(&"named".parse().unwrap()).unwrap());
    }

    #[test]
    fn a_use_counts_at_once_and_is_written_now_and_then() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut images = index(&dir);
        images.put(record(Some("web"), 1, None)).unwrap();
        let web = "web".parse().unwrap();
        images.touch(&web, 50, 100).unwrap();
        assert_eq!((images.records()[0].last_used, index(&dir).records()[0].last_used), (50, 0));
        images.touch(&web, 150, 100).unwrap();
        assert_eq!(index(&dir).records()[0].last_used, 150);
    }

    #[test]
    fn what_was_loaded_by_hand_stays_so_until_its_name_goes_to_another() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut images = index(&dir);
        let loaded = |record| Record { loaded: true, ..record };
        let flags = |index: &Index| index.records().iter().map(|r| r.loaded).collect::<Vec<_>>();
        images.put(loaded(record(Some("web:1"), 1, Some(11)))).unwrap();
        images.put(record(Some("web:1"), 1, Some(11))).unwrap();
        assert_eq!(flags(&images), [true], "pulled again, the same");
        images.put(record(Some("web:1"), 2, Some(12))).unwrap();
        assert_eq!(flags(&images), [false, false]);
        images.put(loaded(record(None, 3, None))).unwrap();
        images.put(record(Some("named"), 3, None)).unwrap();
        assert_eq!(flags(&images), [false, false, true], "a better name");
        assert_eq!(flags(&index(&dir)), flags(&images));
    }

    #[test]
    fn images_that_tasks_hold_are_as_good_as_asked_for() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut images = index(&dir);
        images.put(record(Some("web"), 1, None)).unwrap();
        images.put(record(Some("db"), 2, None)).unwrap();
        let held = BTreeSet::from([Digest::from_bytes([2; 32])]);
        images.touch_all(&held, 50, 100).unwrap();
        let used = |index: &Index| index.records().iter().map(|r| r.last_used).collect::<Vec<_>>();
        assert_eq!((used(&images), used(&index(&dir))), (vec![0, 50], vec![0, 0]));
        images.touch_all(&held, 150, 100).unwrap();
        assert_eq!(used(&index(&dir)), [0, 150]);
    }

    #[test]
    fn lists_of_every_version_are_read() {
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let tagged = Record { last_used: 9, ..record(Some("web:1"), 1, Some(11)) };
        let images = vec![tagged, Record { loaded: true, ..record(None, 2, None) }];
        shoal_durable::testing::check_golden::<IndexFile>(&golden, &Images { images });
    }

    #[test]
    fn a_damaged_list_is_an_error_that_names_the_file() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("images.json");
        for text in ["{", "{\"version\":2,\"images\":[]}"] {
            std::fs::write(&path, text).unwrap();
            let error = Index::open(path.clone()).unwrap_err();
            assert!(error.to_string().contains("images.json"), "{error}");
        }
    }
}
