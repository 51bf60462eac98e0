//! A page of `/metrics`, read as Prometheus would.

use std::collections::BTreeMap;

/// A scrape: each sample's value under its name and labels, as written.
#[derive(Clone, Debug, Default)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// Reads a page; what is no sample and no comment fails.
    pub fn read(page: &str) -> Self {
        let mut samples = BTreeMap::new();
        for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let value = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
            assert!(samples.insert(name.to_owned(), value).is_none(), "{name} is there twice");
        }
        Self(samples)
    }

    /// The sum of a family's samples that carry all of these labels.
    pub fn sum(&self, family: &str, labels: &[(&str, &str)]) -> u64 {
        let samples = self.0.iter().filter(|(name, _)| {
            let (base, inside) = name.split_once('{').unwrap_or((name.as_str(), ""));
            let wanted = |(label, value): &(&str, &str)| {
                inside
                    .trim_end_matches('}')
                    .split(',')
                    .any(|has| has == format!("{label}=\"{value}\""))
            };
            base == family && labels.iter().all(wanted)
        });
        samples.map(|(_, value)| value).sum::<f64>() as u64
    }

    /// Is there a sample of this family?
    pub fn has(&self, family: &str) -> bool {
        self.0.keys().any(|name| name.split('{').next() == Some(family))
    }

    /// Every label's name and value.
    pub fn labels(&self) -> Vec<String> {
        let inside = self.0.keys().filter_map(|name| name.split_once('{'));
        let labels = inside.flat_map(|(_, inside)| inside.trim_end_matches('}').split(','));
        labels.map(str::to_owned).collect()
    }
}
