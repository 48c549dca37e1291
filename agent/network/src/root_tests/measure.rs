//! How long it takes. Run by hand:
//! `cargo test --release -p shoal-agent network::root_tests::measure -- --ignored --nocapture`

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;

use super::*;

const CONTAINERS: usize = 64;

#[test]
#[ignore = "a measurement, not a check"]
fn attach_publish_release() {
    let lab = Lab::new();
    let spaces: Vec<Space> = (0..CONTAINERS).map(|_| Space::new("many")).collect();
    let netns: Vec<Netns> = spaces.iter().map(Space::netns).collect();
    lab.block_on(async || {
        for concurrency in [1, 4, 16] {
            let driver = Arc::new(lab.driver());
            driver.ensure_network(net("front")).await.unwrap();
            let attach = phase(&driver, concurrency, |driver, number| {
                let netns = netns[number].clone();
                async move {
                    let request = request(&format!("c{number}"), "front");
                    driver.attach(request, netns).await.map(drop)
                }
            });
            let attach = attach.await;
            let publish = phase(&driver, concurrency, async |driver, number| {
                driver.publish(format!("c{number}"), vec![tcp(0, 80)]).await.map(drop)
            });
            let publish = publish.await;
            let release = phase(&driver, concurrency, async |driver, number| {
                driver.release(format!("c{number}")).await
            });
            let release = release.await;
            println!(
                "{concurrency:2} at once: attach {attach}, publish {publish}, release {release}"
            );
            driver.cleanup_all().await.unwrap();
        }
    });
}

/// Does something for every container, so many at once; mean latency and time per container.
async fn phase<F: Future<Output = Result<(), NetworkError>>>(
    driver: &Arc<BridgeNetworks>,
    concurrency: usize,
    act: impl Fn(Arc<BridgeNetworks>, usize) -> F,
) -> String {
    let start = Instant::now();
    let latencies: Vec<Duration> = futures::stream::iter(0..CONTAINERS)
        .map(|number| {
            let work = act(driver.clone(), number);
            async move {
                let start = Instant::now();
                work.await.unwrap();
                start.elapsed()
            }
        })
        .buffer_unordered(concurrency)
        .collect()
        .await;
    let count = u32::try_from(CONTAINERS).unwrap();
    let (mean, each) = (latencies.iter().sum::<Duration>() / count, start.elapsed() / count);
    format!("{mean:.1?} ({each:.1?} per container)")
}
