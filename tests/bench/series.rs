//! Series of measurements, for every benchmark that compares.

use rand::Rng;

/// Below which this share of them is.
pub(crate) fn quantile(series: &[f64], q: f64) -> f64 {
    let mut sorted = series.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1)) as f64 * q;
    sorted.get(at.round() as usize).copied().unwrap_or(f64::NAN)
}

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
