//! Jobs of many machines, against a real cluster of NATS servers. Where there is no `nats-server`, these tests say so and
//! are skipped; `.ci/cluster` installs one.

mod processes;
mod proxy;
mod rules;
mod servers;
mod store;

use vljepa::settings::Settings;

use servers::Servers;

/// Settings of a cluster called `name` on these servers.
fn settings(servers: &Servers, name: &str) -> Settings {
    let mut settings = Settings::default();
    settings.cluster.url = Some(servers.url());
    settings.cluster.name = name.into();
    settings.cluster.replicas = 3;
    settings.cluster.reconcile_ms = 300;
    settings.cluster.lease_ms = 2_000;
    settings
}
