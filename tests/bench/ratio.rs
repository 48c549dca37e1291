//! Two series compared, for every benchmark that has a peer beside it.

use rand::Rng;

use crate::series::quantile;

/// Bootstrap of the ratio of medians: 95 % of 4000 resamplings.
pub(crate) fn interval(ours: &[f64], theirs: &[f64]) -> (f64, f64) {
    let mut rng = rand::rng();
    let mut median = |series: &[f64]| {
        let again: Vec<f64> =
            (0..series.len()).map(|_| series[rng.random_range(0..series.len())]).collect();
        quantile(&again, 0.5)
    };
    let ratios: Vec<f64> = (0..4000).map(|_| median(ours) / median(theirs)).collect();
    (quantile(&ratios, 0.025), quantile(&ratios, 0.975))
}
