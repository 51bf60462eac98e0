//! The page of `/metrics`: all shards summed, as text.
//!
//! Written by hand in the classic format (0.0.4), not by prometheus-client: that crate writes
//! OpenMetrics only, where a family's `# TYPE` line loses the `_total` that the contract names,
//! and its families own their values, where here they lie dense in the shards.

use super::{
    Counter, DIRECTIONS, DURATION_BOUNDS_US, Endpoint, Gauge, Histogram, Metrics,
    OVERHEAD_BOUNDS_US, PLANS_MAX, Phase, PlanCounts, SERVICES_MAX, STATUSES, ServiceCounts,
    ShardMetrics,
};
use shard::catalog::Catalog;
use shard::record::Outcome;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};

impl Metrics {
    /// The page of `/metrics`; `catalog` names the services and plans.
    pub(crate) fn page(&self, catalog: &Catalog) -> String {
        let mut page = MetricsPage(String::with_capacity(16 * 1_024));
        self.write_requests(&mut page);
        self.write_services(&mut page, catalog);
        self.write_plans(&mut page, catalog);
        self.write_shards(&mut page);
        self.write_threads(&mut page);
        page.0
    }

    fn sum(&self, of: impl Fn(&ShardMetrics) -> &Counter) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.wrapping_add(of(shard).get()))
    }

    fn level(&self, of: impl Fn(&ShardMetrics) -> &Gauge) -> i64 {
        self.shards.iter().map(|shard| of(shard).get()).sum()
    }

    fn write_requests(&self, page: &mut MetricsPage) {
        let name = "http_requests_total";
        page.family(name, "counter", "Requests answered, refusals included.");
        for endpoint in Endpoint::ALL {
            for slot in 0..=STATUSES {
                let count = self.sum(|shard| &shard.endpoints[endpoint as usize].statuses[slot]);
                if count > 0 {
                    let status =
                        if slot == STATUSES { "other".into() } else { (slot + 100).to_string() };
                    page.sample(name, &[("endpoint", endpoint.name()), ("status", &status)], count);
                }
            }
        }
        let name = "http_request_duration_seconds";
        page.family(name, "histogram", "From a request's first byte to its answer's last.");
        for endpoint in Endpoint::ALL {
            let label = [("endpoint", endpoint.name())];
            self.write_histogram(page, name, &label, &DURATION_BOUNDS_US, |shard| {
                &shard.endpoints[endpoint as usize].durations
            });
        }
        let name = "tollgate_overhead_seconds";
        page.family(name, "histogram", "Latency of admitted requests less the upstream's part.");
        self.write_histogram(page, name, &[], &OVERHEAD_BOUNDS_US, |shard| &shard.overheads);
    }

    fn write_histogram(
        &self,
        page: &mut MetricsPage,
        name: &str,
        labels: &[(&str, &str)],
        bounds_us: &[u64; 16],
        of: impl Fn(&ShardMetrics) -> &Histogram,
    ) {
        let (bucket_name, mut count) = (format!("{name}_bucket"), 0);
        for place in 0..=bounds_us.len() {
            count += self.sum(|shard| &of(shard).counts[place]);
            let bound = match bounds_us.get(place) {
                Some(bound_us) => (*bound_us as f64 / 1e6).to_string(),
                None => "+Inf".to_owned(),
            };
            let bucket_labels = [labels, &[("le", bound.as_str())]].concat();
            page.sample(&bucket_name, &bucket_labels, count);
        }
        let sum_s = self.sum(|shard| &of(shard).sum_us) as f64 / 1e6;
        page.sample(&format!("{name}_sum"), labels, sum_s);
        page.sample(&format!("{name}_count"), labels, count);
    }

    /// The sum over all shards and these slots.
    fn sum_of(&self, slots: &[usize], of: impl Fn(&ShardMetrics, usize) -> &Counter) -> u64 {
        slots.iter().fold(0, |sum, slot| sum.wrapping_add(self.sum(|shard| of(shard, *slot))))
    }

    fn write_services(&self, page: &mut MetricsPage, catalog: &Catalog) {
        let services = slots_by_name(catalog.services.iter().map(|it| &*it.name), SERVICES_MAX);
        self.write_family(
            page,
            &services,
            ("consumption_requests_total", "Admitted requests, by how they ended."),
            ("outcome", &Outcome::ALL.map(Outcome::name)),
            |counts| &counts.outcomes,
        );
        self.write_family(
            page,
            &services,
            (
                "tollgate_usage_unreported_total",
                "Whole answers whose usage their upstream did not report.",
            ),
            ("streamed", &["false", "true"]),
            |counts| &counts.unreported,
        );
        self.write_family(
            page,
            &services,
            ("tokens_consumed_total", "Tokens metered; cached ones are also counted as input."),
            ("direction", &DIRECTIONS),
            |counts| &counts.tokens,
        );
        self.write_family(
            page,
            &services,
            (
                "tollgate_upstream_faults_total",
                "Calls that an upstream failed, by how far they had come.",
            ),
            ("phase", &Phase::ALL.map(Phase::name)),
            |counts| &counts.faults,
        );
        let name = "tollgate_upstream_strays_total";
        let help = "Upstream connections closed for bytes on them that belong to no answer.";
        page.family(name, "counter", help);
        for (service, slots) in &services {
            let count = self.sum_of(slots, |shard, slot| &shard.services[slot].strays);
            if count > 0 {
                page.sample(name, &[("service", *service)], count);
            }
        }
    }

    /// A family of counters by service, and by a label whose values stand in the counters' order.
    fn write_family(
        &self,
        page: &mut MetricsPage,
        services: &BTreeMap<&str, Vec<usize>>,
        (name, help): (&str, &str),
        (label, values): (&str, &[&str]),
        of: fn(&ServiceCounts) -> &[Counter],
    ) {
        page.family(name, "counter", help);
        for (service, slots) in services {
            for (place, value) in values.iter().enumerate() {
                let count = self.sum_of(slots, |shard, slot| &of(&shard.services[slot])[place]);
                if count > 0 {
                    page.sample(name, &[("service", *service), (label, *value)], count);
                }
            }
        }
    }

    fn write_plans(&self, page: &mut MetricsPage, catalog: &Catalog) {
        type Of = fn(&PlanCounts) -> &Counter;
        let families: [(&str, &str, Of); 2] = [
            ("rate_limits_exceeded_total", "Requests refused by the rate.", |it| &it.rate_limited),
            ("quota_exceeded_total", "Requests refused by the quota.", |it| &it.quota_exceeded),
        ];
        let plans = slots_by_name(catalog.plans.iter().map(|it| &*it.name), PLANS_MAX);
        for (name, help, of) in families {
            page.family(name, "counter", help);
            for (plan, slots) in &plans {
                let count = self.sum_of(slots, |shard, slot| of(&shard.plans[slot]));
                if count > 0 || slots[0] < PLANS_MAX {
                    page.sample(name, &[("plan", *plan)], count);
                }
            }
        }
    }

    fn write_shards(&self, page: &mut MetricsPage) {
        type Of = fn(&ShardMetrics) -> &Counter;
        let counters: [(&str, &str, Of); 9] = [
            ("tollgate_lease_wants_total", "Wants posted by shards.", |it| &it.lease_wants),
            ("tollgate_journal_records_total", "Records appended.", |it| &it.journal_records),
            ("tollgate_journal_bytes_total", "Bytes appended.", |it| &it.journal_bytes),
            (
                "tollgate_journal_full_total",
                "Requests refused for want of room in the journal.",
                |it| &it.journal_full,
            ),
            ("tollgate_journal_synced_records_total", "Records on stable storage.", |it| {
                &it.journal_synced
            }),
            (
                "tollgate_journal_sync_failures_total",
                "Syncs of a journal's file that failed: records moved, or admission ended.",
                |it| &it.journal_sync_failures,
            ),
            (
                "tollgate_tokens_clamped_total",
                "Calls whose reported tokens were cut to the largest count that is billed.",
                |it| &it.tokens_clamped,
            ),
            (
                "tollgate_channel_full_total",
                "Messages and records for which a channel from a shard had no room at once.",
                |it| &it.channel_full,
            ),
            ("tollgate_permits_leaked_total", "Permits settled by the deadline sweep.", |it| {
                &it.permits_leaked
            }),
        ];
        for (name, help, of) in counters {
            page.family(name, "counter", help);
            page.sample(name, &[], self.sum(of));
        }
        let name = "tollgate_pool_connections";
        page.family(name, "gauge", "Connections to upstreams.");
        page.sample(name, &[("state", "idle")], self.level(|shard| &shard.pool_idle));
        let name = "tollgate_permits_open";
        page.family(name, "gauge", "Requests admitted and not settled.");
        page.sample(name, &[], self.level(|shard| &shard.permits_open));
        let name = "tollgate_keys_cached";
        page.family(name, "gauge", "Verdicts on valid keys in the shards' caches.");
        page.sample(name, &[], self.level(|shard| &shard.keys_cached));
        let name = "tollgate_open_connections";
        page.family(name, "gauge", "Connections from clients.");
        for (number, shard) in self.shards.iter().enumerate() {
            page.sample(name, &[("shard", &number.to_string())], shard.open_connections.get());
        }
    }

    fn write_threads(&self, page: &mut MetricsPage) {
        let name = "tollgate_verifications_total";
        page.family(name, "counter", "Keys that shards asked about.");
        for (result, counter) in [
            ("granted", &self.control.verified_granted),
            ("refused", &self.control.verified_refused),
            ("cached", &self.control.verified_cached),
            ("busy", &self.control.verified_busy),
        ] {
            page.sample(name, &[("result", result)], counter.get());
        }
        for (name, help, counter) in [
            (
                "tollgate_authority_calls_total",
                "Calls made to the authority.",
                &self.control.authority_calls,
            ),
            ("tollgate_writer_rows_total", "Rows committed to the ledger.", &self.writer.rows),
            ("tollgate_writer_batches_total", "Transactions committed.", &self.writer.batches),
            (
                "tollgate_writer_failures_total",
                "Transactions that failed and were tried again.",
                &self.writer.failures,
            ),
            (
                "tollgate_writer_rows_from_journal_total",
                "Rows that the channel dropped and the journal gave.",
                &self.writer.rows_from_files,
            ),
            (
                "tollgate_writer_refused_total",
                "Records that the ledger refused, kept in usage_dlq.",
                &self.writer.refused,
            ),
            (
                "tollgate_ledger_saturated_total",
                "Sums of the ledger found at the largest integer, where they stop.",
                &self.writer.saturated,
            ),
            (
                "tollgate_journal_gaps_total",
                "Stretches of a journal that could not be read back.",
                &self.writer.gaps,
            ),
        ] {
            page.family(name, "counter", help);
            page.sample(name, &[], counter.get());
        }
        let name = "tollgate_authority_lost";
        page.family(name, "gauge", "1 while keys go on without the authority (when_lost).");
        page.sample(name, &[], self.control.authority_lost.get());
        let name = "tollgate_writer_lag_seconds";
        page.family(name, "gauge", "Age of the last batch's oldest record at its commit.");
        page.sample(name, &[], self.writer.lag_us.get() as f64 / 1e6);
        self.write_store(page);
    }

    fn write_store(&self, page: &mut MetricsPage) {
        let name = "tollgate_store_connections";
        page.family(name, "gauge", "Connections to Postgres, the writer's among them.");
        page.sample(name, &[], self.control.store_connections.get());
        let name = "tollgate_store_replica_lag_seconds";
        page.family(name, "gauge", "How far the replica of store.read_url is behind.");
        if let lag_us @ 1.. = self.control.replica_lag_us.get() {
            page.sample(name, &[], (lag_us - 1) as f64 / 1e6);
        }
        let name = "tollgate_ledger_bytes";
        page.family(
            name,
            "gauge",
            "What the store's file or database takes; 0: not looked at yet.",
        );
        page.sample(name, &[], self.writer.ledger_bytes.get());
        let name = "tollgate_ledger_disk_full_days";
        page.family(name, "gauge", "Days until the ledger's disk is full, as it grows now.");
        if let days @ 1.. = self.writer.disk_full_s.get() {
            page.sample(name, &[], days as f64 / 86_400.0);
        }
    }
}

/// The slots of each label. The first `max` names have a slot each, the rest share one. A name that
/// was deleted and given anew has two: its one sample is their sum, so it never falls. A deleted
/// name's sample stays until the process ends.
fn slots_by_name<'a>(
    names: impl Iterator<Item = &'a str>,
    max: usize,
) -> BTreeMap<&'a str, Vec<usize>> {
    let mut slots: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (slot, name) in names.take(max).enumerate() {
        slots.entry(name).or_default().push(slot);
    }
    slots.entry("other").or_default().push(max);
    slots
}

/// The text of a scrape.
struct MetricsPage(String);

impl MetricsPage {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            self.put(format_args!("{}{label}=\"", if place == 0 { '{' } else { ',' }));
            for char in text.chars() {
                match char {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    _ => self.0.push(char),
                }
            }
            self.0.push('"');
        }
        self.put(format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard::catalog::Plan;
    use shard::record::Usage;
    use shard::units::PlanId;

    fn catalog() -> Catalog {
        let plan = Plan {
            id: PlanId(1),
            name: "ba\"sic".into(),
            rate_per_s: 1,
            burst: 1,
            quota_tokens: 1,
            when_lost: None,
        };
        Catalog::new(1, vec![plan], Vec::new())
    }

    #[test]
    fn a_scrape_sums_the_shards() {
        let metrics = Metrics::new(2);
        metrics.shard(0).request(Endpoint::Consume, 200, 4_000);
        metrics.shard(1).request(Endpoint::Consume, 200, 6_000_000_000);
        metrics.shard(1).request(Endpoint::Other, 999, 0);
        metrics.shard(0).rate_limited(0);
        metrics.shard(1).rate_limited(u32::MAX);
        metrics.shard(1).open_connections.set(3);
        let usage = Usage { input_tokens: 5, cached_tokens: 2, output_tokens: 7, estimated: false };
        metrics.shard(0).consumption(u32::MAX, Outcome::ClientAborted, &usage);
        let page = metrics.page(&catalog());
        for line in [
            "# TYPE http_requests_total counter",
            "http_requests_total{endpoint=\"consume\",status=\"200\"} 2",
            "http_requests_total{endpoint=\"other\",status=\"other\"} 1",
            "http_request_duration_seconds_bucket{endpoint=\"consume\",le=\"0.0025\"} 0",
            "http_request_duration_seconds_bucket{endpoint=\"consume\",le=\"0.005\"} 1",
            "http_request_duration_seconds_bucket{endpoint=\"consume\",le=\"120\"} 1",
            "http_request_duration_seconds_bucket{endpoint=\"consume\",le=\"+Inf\"} 2",
            "http_request_duration_seconds_sum{endpoint=\"consume\"} 6000.004",
            "http_request_duration_seconds_count{endpoint=\"consume\"} 2",
            "rate_limits_exceeded_total{plan=\"ba\\\"sic\"} 1",
            "rate_limits_exceeded_total{plan=\"other\"} 1",
            "quota_exceeded_total{plan=\"ba\\\"sic\"} 0",
            "consumption_requests_total{service=\"other\",outcome=\"client_aborted\"} 1",
            "tokens_consumed_total{service=\"other\",direction=\"input\"} 5",
            "tokens_consumed_total{service=\"other\",direction=\"output\"} 7",
            "tollgate_open_connections{shard=\"1\"} 3",
            "tollgate_permits_leaked_total 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_name_given_anew_is_one_sample_that_goes_on() {
        let mut plans = catalog().plans;
        plans.push(Plan { id: PlanId(2), ..plans[0].clone() });
        let metrics = Metrics::new(2);
        metrics.shard(0).rate_limited(0);
        metrics.shard(1).rate_limited(1);
        let page = metrics.page(&Catalog::new(1, plans, Vec::new()));
        let samples = page.lines().filter(|line| line.starts_with("rate_limits_exceeded_total"));
        let line = "rate_limits_exceeded_total{plan=\"ba\\\"sic\"} 2";
        assert_eq!(samples.collect::<Vec<_>>(), [line]);
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample() {
        let page = Metrics::new(1).page(&catalog());
        for line in page.lines().filter(|line| !line.starts_with("# ")) {
            let (_, value) = line.rsplit_once(' ').unwrap_or_default();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
