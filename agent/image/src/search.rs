//! The way from an index to an image: indexes may lead to indexes.

use oci_spec::image::Descriptor;
use shoal_types::image_ref::Digest;

use super::manifest::{self, ManifestError};
use super::platform::{Platform, WrongPlatform, available, candidates};

/// Indexes that lead to one another before an image comes.
const DEPTH_MAX: usize = 4;
/// Documents looked at for one image.
const DOCUMENTS_MAX: usize = 32;

/// Entries of indexes that are still to be looked at, for one image.
#[derive(Debug)]
pub(super) struct Search {
    host: Platform,
    /// The best entry of the innermost index last, each with how many indexes led to it.
    ahead: Vec<(usize, Descriptor)>,
    depth: usize,
    documents: usize,
    available: Vec<Platform>,
}

impl Search {
    pub(super) fn new(host: &Platform) -> Self {
        Self {
            host: host.clone(),
            ahead: Vec::new(),
            depth: 0,
            documents: 0,
            available: Vec::new(),
        }
    }

    /// Takes up an index: the first, or the one that was led to last.
    pub(super) fn enter(&mut self, entries: &[Descriptor]) -> Result<(), ManifestError> {
        if self.depth == DEPTH_MAX {
            return Err(ManifestError::IndexDepth { limit: DEPTH_MAX });
        }
        let found = candidates(entries, &self.host).into_iter().rev();
        self.ahead.extend(found.map(|entry| (self.depth + 1, entry.clone())));
        self.available.extend(available(entries));
        Ok(())
    }

    /// The document to look at next; nothing when there is none for this host.
    pub(super) fn next(&mut self) -> Result<Option<Digest>, ManifestError> {
        let Some((depth, entry)) = self.ahead.pop() else { return Ok(None) };
        self.documents += 1;
        if self.documents > DOCUMENTS_MAX {
            return Err(ManifestError::IndexDocuments { limit: DOCUMENTS_MAX });
        }
        self.depth = depth;
        manifest::digest(&entry).map(Some)
    }

    /// Why nothing was found.
    pub(super) fn in_vain(mut self) -> WrongPlatform {
        self.available.sort();
        self.available.dedup();
        WrongPlatform { wanted: self.host, available: self.available }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn name(n: u8) -> String {
        Digest::from_bytes([n; 32]).to_string()
    }

    fn entry(n: u8, architecture: Option<&str>) -> Value {
        let mut value = json!({
            "mediaType": "application/vnd.oci.image.index.v1+json", "digest": name(n), "size": 1,
        });
        if let Some(architecture) = architecture {
            value["platform"] = json!({"os": "linux", "architecture": architecture});
        }
        value
    }

    /// What is found from index 0, where everything that is no index is an image.
    fn find(indexes: &[(u8, Vec<Value>)]) -> Result<Option<u8>, String> {
        let host = Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: Some("v1".into()),
        };
        let indexes: BTreeMap<String, Vec<Descriptor>> = indexes
            .iter()
            .map(|(n, entries)| {
                let entries = entries.iter().cloned().map(serde_json::from_value);
                (name(*n), entries.collect::<Result<_, _>>().unwrap())
            })
            .collect();
        let mut search = Search::new(&host);
        search.enter(&indexes[&name(0)]).unwrap();
        while let Some(digest) = search.next().map_err(|error| error.to_string())? {
            match indexes.get(&digest.to_string()) {
                Some(entries) => search.enter(entries).map_err(|error| error.to_string())?,
                None => return Ok(Some(digest.as_bytes()[0])),
            }
        }
        Err(search.in_vain().to_string())
    }

    #[test]
    fn an_index_may_lead_to_an_index() {
        let amd64 = Some("amd64");
        assert_eq!(find(&[(0, vec![entry(9, amd64)])]), Ok(Some(9)));
        let nested =
            [(0, vec![entry(1, None)]), (1, vec![entry(8, Some("arm64")), entry(9, amd64)])];
        assert_eq!(find(&nested), Ok(Some(9)));
        // The first leads nowhere; what names its platform goes before what does not.
        let several = [
            (0, vec![entry(1, None), entry(2, None), entry(3, Some("arm64"))]),
            (1, vec![entry(8, Some("arm64"))]),
            (2, vec![entry(7, None), entry(9, amd64)]),
        ];
        assert_eq!(find(&several), Ok(Some(9)));
        let none = [
            (0, vec![entry(1, None), entry(2, Some("s390x"))]),
            (1, vec![entry(8, Some("arm64"))]),
        ];
        assert_eq!(
            find(&none),
            Err("there is no image for linux/amd64/v1, only for linux/arm64, linux/s390x".into())
        );
    }

    #[test]
    fn indexes_lead_to_one_another_within_bounds() {
        let chain =
            |length: u8| (0..length).map(|n| (n, vec![entry(n + 1, None)])).collect::<Vec<_>>();
        assert_eq!(find(&chain(4)), Ok(Some(4)));
        let deep = "the index leads through more than 4 indexes".to_owned();
        assert_eq!(find(&chain(5)), Err(deep));
        let circle = [(0, vec![entry(0, None)])];
        assert!(find(&circle).is_err());
        let wide: Vec<_> = (0..40).map(|n| entry(n + 1, None)).collect();
        let empty = (1..40).map(|n| (n, Vec::new()));
        let wide: Vec<_> = [(0, wide)].into_iter().chain(empty).collect();
        assert!(find(&wide).unwrap_err().contains("more than 32 documents"));
    }
}
