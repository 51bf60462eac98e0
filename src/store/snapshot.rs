//! What an instance knows by heart of its store (plans, services with their sealed credentials,
//! consumers, the living keys), in a file of its data directory: with it an instance starts while
//! the server is away. What has changed since is followed once the server is back.
//!
//! The file is of one form, one store and one schema, and has a digest of the rest: one that is
//! damaged, of another version or of another store is refused, and so is one that nobody has found
//! to be true for a day.

use super::price_text;
use super::rows::{
    ConsumerRow, Digest, KeyName, KeyNames, KeyRow, Loaded, PlanRow, PriceRow, ServiceRow,
    when_lost_name, when_lost_of,
};
use crate::clock;
use crate::data_dir::replace_file;
use rkyv::rancor;
use rkyv::util::AlignedVec;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use shard::catalog::{Plan, PriceVersion};
use shard::units::{BucketId, ConsumerId, KeyId, PlanId, ServiceId};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The file in the data directory.
const FILE_NAME: &str = "snapshot";
/// What every file of this form begins with.
const FORM: &[u8; 20] = b"tollgate snapshot 2\n";
const DIGEST_BYTES: usize = 32;
/// Past this a key that was revoked long ago would still be let in.
const AGE_S_MAX: i64 = 24 * 3_600;
/// A million keys are 250 MB.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// All that an instance knows by heart.
pub(crate) struct Snapshot {
    /// All changes up to this one are in it.
    pub(crate) seen: i64,
    /// The keys that all instances on the store need.
    pub(crate) key_names: Option<KeyNames>,
    pub(crate) loaded: Loaded,
    /// Those that are not revoked.
    pub(crate) keys: Vec<KeyRow>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct FlatSnapshot {
    seen: i64,
    /// Of the digests, and of the credentials.
    key_names: Option<(KeyName, KeyName)>,
    key_count: u64,
    plans: Vec<FlatPlan>,
    services: Vec<FlatService>,
    consumers: Vec<FlatConsumer>,
    keys: Vec<FlatKey>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct FlatPlan {
    place: i64,
    id: u64,
    name: String,
    rate_per_s: u64,
    burst: u64,
    quota_tokens: u64,
    when_lost: Option<String>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct FlatService {
    place: i64,
    id: u64,
    name: String,
    base_url: String,
    default_path: String,
    credential_sealed: Option<Vec<u8>>,
    enabled: bool,
    /// Version, start, and the API's JSON.
    prices: Vec<(u32, i64, String)>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct FlatConsumer {
    place: i64,
    id: u64,
    name: String,
    plan: u64,
    plan_name: String,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct FlatKey {
    place: i64,
    id: u64,
    consumer: u64,
    bucket: u64,
    secret_hash: String,
    digest: Option<Vec<u8>>,
    services: Option<Vec<u64>>,
    expires_at_unix_us: Option<i64>,
}

/// Writes it in place of the last one, which stays whole until then. `store` names the store and
/// its schema.
pub(crate) fn write(data_dir: &Path, store: &str, snapshot: Snapshot) -> io::Result<()> {
    let body = rkyv::to_bytes::<rancor::Error>(&flat(snapshot)).map_err(io::Error::other)?;
    replace_file(&path_of(data_dir), &[FORM, &digest_of(store, &body), &body])
}

/// Nothing has changed since it was written.
pub(crate) fn confirm(data_dir: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(futimens(File::open(path_of(data_dir))?, &times)?)
}

/// Reads it, or says why it is no use.
pub(crate) fn read(data_dir: &Path, store: &str) -> Result<Snapshot, String> {
    let path = path_of(data_dir);
    let refused = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let file = File::open(&path).map_err(|error| refused(&error))?;
    let metadata = file.metadata().map_err(|error| refused(&error))?;
    let age_s = clock::unix_us() / 1_000_000 - metadata.mtime();
    if age_s > AGE_S_MAX {
        return Err(refused(&"it is older than a day: keys may have been revoked since"));
    }
    let mut bytes = Vec::with_capacity(metadata.len().min(FILE_BYTES_MAX) as usize);
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| refused(&error))?;
    let rest = bytes.strip_prefix(FORM.as_slice()).ok_or_else(|| refused(&"of another version"))?;
    let (digest, body) =
        rest.split_first_chunk::<DIGEST_BYTES>().ok_or_else(|| refused(&"it was cut short"))?;
    if *digest != digest_of(store, body) {
        return Err(refused(&"it is damaged, or of another store or version"));
    }
    let mut aligned = AlignedVec::<16>::with_capacity(body.len());
    aligned.extend_from_slice(body);
    let flat = rkyv::from_bytes::<FlatSnapshot, rancor::Error>(&aligned);
    let flat = flat.map_err(|error| refused(&error))?;
    restored(flat).ok_or_else(|| refused(&"it holds a price or a digest that is none"))
}

fn path_of(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

fn digest_of(store: &str, body: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(store.len() as u64).to_le_bytes()).update(store.as_bytes()).update(body);
    *hasher.finalize().as_bytes()
}

fn flat(snapshot: Snapshot) -> FlatSnapshot {
    let Loaded { keys: key_count, plans, services, consumers } = snapshot.loaded;
    FlatSnapshot {
        seen: snapshot.seen,
        key_names: snapshot.key_names.map(|names| (names.digest, names.encryption)),
        key_count: key_count as u64,
        plans: plans.into_iter().map(flat_plan).collect(),
        services: services.into_iter().map(flat_service).collect(),
        consumers: consumers.into_iter().map(flat_consumer).collect(),
        keys: snapshot.keys.into_iter().map(flat_key).collect(),
    }
}

fn flat_plan(PlanRow { place, plan, .. }: PlanRow) -> FlatPlan {
    FlatPlan {
        place,
        id: plan.id.0,
        name: plan.name.to_string(),
        rate_per_s: plan.rate_per_s,
        burst: plan.burst,
        quota_tokens: plan.quota_tokens,
        when_lost: plan.when_lost.map(|it| when_lost_name(it).to_owned()),
    }
}

fn flat_service(row: ServiceRow) -> FlatService {
    let price = |PriceRow { price, .. }: &PriceRow| {
        (price.version, price.effective_at_unix_us, price_text::write(&price.model))
    };
    FlatService {
        place: row.place,
        id: row.id.0,
        prices: row.prices.iter().map(price).collect(),
        name: row.name,
        base_url: row.base_url,
        default_path: row.default_path,
        credential_sealed: row.credential,
        enabled: row.enabled,
    }
}

fn flat_consumer(row: ConsumerRow) -> FlatConsumer {
    let ConsumerRow { place, id, name, plan, plan_name, .. } = row;
    FlatConsumer { place, id: id.0, name, plan: plan.0, plan_name }
}

fn flat_key(row: KeyRow) -> FlatKey {
    FlatKey {
        place: row.place,
        id: row.id.0,
        consumer: row.consumer.0,
        bucket: row.bucket.0,
        secret_hash: row.secret_hash.to_string(),
        digest: row.digest.map(Digest::to_bytes),
        services: row.services.map(|ids| ids.iter().map(|id| id.0).collect()),
        expires_at_unix_us: row.expires_at_unix_us,
    }
}

/// The rows, but for what only the admin API shows of them, which the store tells.
fn restored(flat: FlatSnapshot) -> Option<Snapshot> {
    let services: Option<Vec<ServiceRow>> = flat.services.into_iter().map(service_row).collect();
    let keys: Option<Vec<KeyRow>> = flat.keys.into_iter().map(key_row).collect();
    let loaded = Loaded {
        keys: usize::try_from(flat.key_count).ok()?,
        plans: flat.plans.into_iter().map(plan_row).collect(),
        services: services?,
        consumers: flat.consumers.into_iter().map(consumer_row).collect(),
    };
    let key_names = flat.key_names.map(|(digest, encryption)| KeyNames { digest, encryption });
    Some(Snapshot { seen: flat.seen, key_names, loaded, keys: keys? })
}

fn plan_row(flat: FlatPlan) -> PlanRow {
    let plan = Plan {
        id: PlanId(flat.id),
        name: flat.name.into(),
        rate_per_s: flat.rate_per_s,
        burst: flat.burst,
        quota_tokens: flat.quota_tokens,
        when_lost: flat.when_lost.as_deref().and_then(when_lost_of),
    };
    PlanRow { place: flat.place, plan, created_at: String::new() }
}

fn service_row(flat: FlatService) -> Option<ServiceRow> {
    let price = |(version, effective_at_unix_us, text): (u32, i64, String)| {
        let model = price_text::read(&text)?;
        let price = PriceVersion { version, effective_at_unix_us, model };
        Some(PriceRow { price, created_at: String::new() })
    };
    Some(ServiceRow {
        place: flat.place,
        id: ServiceId(flat.id),
        name: flat.name,
        base_url: flat.base_url,
        default_path: flat.default_path,
        credential: flat.credential_sealed,
        enabled: flat.enabled,
        created_at: String::new(),
        prices: flat.prices.into_iter().map(price).collect::<Option<_>>()?,
    })
}

fn consumer_row(flat: FlatConsumer) -> ConsumerRow {
    ConsumerRow {
        place: flat.place,
        id: ConsumerId(flat.id),
        name: flat.name,
        plan: PlanId(flat.plan),
        plan_name: flat.plan_name,
        created_at: String::new(),
    }
}

fn key_row(flat: FlatKey) -> Option<KeyRow> {
    let digest = match flat.digest {
        Some(bytes) => Some(Digest::from_bytes(&bytes)?),
        None => None,
    };
    Some(KeyRow {
        place: flat.place,
        id: KeyId(flat.id),
        consumer: ConsumerId(flat.consumer),
        bucket: BucketId(flat.bucket),
        name: None,
        secret_hash: flat.secret_hash.into(),
        digest,
        services: flat.services.map(|ids| ids.into_iter().map(ServiceId).collect()),
        expires_at_unix_us: flat.expires_at_unix_us,
        revoked_at: None,
        created_at: String::new(),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use shard::catalog::{PriceModel, WhenLost};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn snapshot() -> Snapshot {
        let plan = Plan {
            id: PlanId(1),
            name: "basic".into(),
            rate_per_s: 10,
            burst: 20,
            quota_tokens: 30,
            when_lost: Some(WhenLost::Open),
        };
        let fee = PriceModel::Subscription {
            fee_nanousd: 7,
            allowance_tokens: 8,
            overage: Default::default(),
        };
        let flat = FlatService {
            place: 1,
            id: 2,
            name: "chat".into(),
            base_url: "http://up".into(),
            default_path: "/v1".into(),
            credential_sealed: Some(vec![1, 2, 3]),
            enabled: true,
            prices: vec![(4, 5, price_text::write(&fee))],
        };
        let key = FlatKey {
            place: 1,
            id: 3,
            consumer: 4,
            bucket: 5,
            secret_hash: "$argon2id$".into(),
            digest: Some((0..40).collect()),
            services: Some(vec![2]),
            expires_at_unix_us: Some(6),
        };
        let loaded = Loaded {
            keys: 9,
            plans: vec![PlanRow { place: 1, plan, created_at: String::new() }],
            services: vec![service_row(flat).unwrap()],
            consumers: Vec::new(),
        };
        let key_names = Some(KeyNames { digest: [1; 8], encryption: [2; 8] });
        Snapshot { seen: 17, key_names, loaded, keys: vec![key_row(key).unwrap()] }
    }

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "here", snapshot()).unwrap();
        let mode = fs::metadata(path_of(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let [written, read] = [snapshot(), read(dir.path(), "here").unwrap()];
        assert_eq!((read.seen, read.loaded.keys), (17, 9));
        assert_eq!(read.key_names, written.key_names);
        assert_eq!(read.loaded.plans[0].plan, written.loaded.plans[0].plan);
        let [ours, theirs] = [&read.loaded.services[0], &written.loaded.services[0]];
        assert_eq!(ours.prices[0].price, theirs.prices[0].price);
        assert_eq!((&ours.credential, ours.enabled), (&theirs.credential, true));
        let [ours, theirs] = [&read.keys[0], &written.keys[0]];
        assert_eq!(ours.digest.unwrap().to_bytes(), theirs.digest.unwrap().to_bytes());
        assert_eq!((&ours.services, ours.bucket), (&theirs.services, BucketId(5)));
    }

    #[test]
    fn what_is_damaged_old_or_of_another_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |store: &str| read(dir.path(), store).err().unwrap();
        assert!(refusal("here").contains("No such file"));
        write(dir.path(), "here", snapshot()).unwrap();
        assert!(refusal("there").contains("another store"));
        let path = path_of(dir.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            let why = refusal("here");
            assert!(why.contains("another version") || why.contains("damaged"), "{at}: {why}");
        }
        fs::write(&path, &whole[..30]).unwrap();
        assert!(refusal("here").contains("cut short"));
        fs::write(&path, &whole).unwrap();
        let long_ago = clock::unix_us() / 1_000_000 - AGE_S_MAX - 60;
        let at = Timespec { tv_sec: long_ago, tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        futimens(File::open(&path).unwrap(), &times).unwrap();
        assert!(refusal("here").contains("older than a day"));
        confirm(dir.path()).unwrap();
        assert!(read(dir.path(), "here").is_ok());
    }
}
