//! The same over the ways in which a Redis is run: a cluster and a watched server of which a master
//! is lost, and one that encrypts and asks for a name.

use super::super::redis_server::{RedisServer, free_port};
use super::super::script::{ScriptAsk, bucket_key};
use super::redis_group::{RedisCluster, WatchedRedis};
use super::{
    Instance, PATIENCE, address, any_spent, over_the_plan, runtime, served_again, turn_until,
};
use crate::config::RedisUrl;
use crate::control::authority::RedisAddress;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use shard::units::BucketId;
use std::time::Duration;

/// The commands and keys of the gateway, and nothing else, as docs/leases.md says.
const GATEWAY: &str = "--user gateway on >secret resetkeys ~tollgate:* resetchannels &tollgate:* \
    -@all +evalsha +script|load +subscribe +publish +ping +hello +info +time +get +set \
    +xadd +xrange +pexpire";

/// Two that have been granted some.
async fn served(url: &str) -> Vec<Instance> {
    let mut instances: Vec<_> = (1..3).map(|id| Instance::at(address(url), id)).collect();
    assert!(turn_until(&mut instances, PATIENCE, any_spent).await, "nobody was granted any");
    turn_until(&mut instances, Duration::from_millis(300), |_| false).await;
    instances
}

/// They go on, and keep to the plan.
async fn go_on(instances: &mut [Instance]) {
    assert!(served_again(instances).await, "nobody was granted any afterwards");
    turn_until(instances, Duration::from_millis(500), |_| false).await;
    assert!(over_the_plan(instances) <= 0.0, "{}", over_the_plan(instances));
}

#[test]
fn a_cluster_that_loses_a_master_grants_nothing_twice() {
    let mut cluster = RedisCluster::start();
    runtime().block_on(async {
        let mut instances = served(&cluster.url()).await;
        let group = ScriptAsk::Revoke(BucketId(1)).group();
        let place = cluster.master_of(&bucket_key(group, BucketId(1)));
        cluster.servers[place].kill();
        turn_until(&mut instances, Duration::from_secs(1), |_| false).await;
        go_on(&mut instances).await;
    });
}

/// Under load all the while. The one that has the slot then cannot tell whether it knows of all
/// that was granted: what is on lease has to lapse first.
#[test]
fn a_slot_that_is_moved_grants_nothing_twice() {
    let cluster = RedisCluster::start();
    runtime().block_on(async {
        let mut instances = served(&cluster.url()).await;
        let group = ScriptAsk::Revoke(BucketId(1)).group();
        let step = cluster.begin_to_move(&bucket_key(group, BucketId(1)));
        // While its keys are where they were, it is served from there.
        assert!(served_again(&mut instances).await, "nobody was granted any before the keys went");
        cluster.carry_keys(&step);
        turn_until(&mut instances, Duration::from_millis(300), |_| false).await;
        cluster.end_move(&step);
        go_on(&mut instances).await;
    });
}

#[test]
fn a_watched_master_that_is_replaced_grants_nothing_twice() {
    replace_the_master(WatchedRedis::start(""));
}

/// Where its Sentinels ask for a name and a password too.
#[test]
fn a_master_watched_by_sentinels_with_a_password_is_found_again() {
    replace_the_master(WatchedRedis::start("gateway:secret@"));
}

fn replace_the_master(mut watched: WatchedRedis) {
    runtime().block_on(async {
        let mut instances = served(&watched.url()).await;
        watched.master.kill();
        turn_until(&mut instances, Duration::from_secs(1), |_| false).await;
        go_on(&mut instances).await;
    });
}

/// Also: the permissions that are documented are enough.
#[test]
fn a_redis_that_encrypts_is_believed_by_its_certificate_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let (issuer, key) = (Issuer::new(params, key), KeyPair::generate().unwrap());
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    std::fs::write(path("certificate.pem"), certificate).unwrap();
    std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    let port = free_port();
    let (certificate, key, text) = (path("certificate.pem"), path("key.pem"), port.to_string());
    let tls = ["--port", "0", "--tls-port", &text, "--tls-auth-clients", "no"];
    let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key];
    let users: Vec<&str> = GATEWAY.split_whitespace().collect();
    let nobody = ["--user", "default", "off"];
    let _server = RedisServer::start_at(port, &[&tls[..], &files, &users, &nobody].concat());
    let at = |host: &str, authorities: Option<&str>| {
        let url = format!("rediss://gateway:secret@{host}:{port}");
        let authorities = authorities.map(|pem| pem.as_bytes().to_vec());
        RedisAddress::new(&RedisUrl::parse(&url).unwrap(), authorities).unwrap()
    };
    runtime().block_on(async {
        let mut known = vec![Instance::at(at("localhost", Some(&ca)), 1)];
        assert!(turn_until(&mut known, PATIENCE, any_spent).await, "nobody was granted any");
        let mut unknown = vec![
            Instance::at(at("localhost", None), 2),
            Instance::at(at("127.0.0.1", Some(&ca)), 3),
        ];
        let served = |all: &[Instance]| all.iter().any(|it| !it.spent_at.is_empty());
        assert!(!turn_until(&mut unknown, Duration::from_secs(1), served).await);
    });
}
