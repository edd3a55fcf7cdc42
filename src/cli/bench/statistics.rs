//! Medians, how far they can be trusted, means of ratios, and how a cost grows.

/// A median and the interval that it lies in with a probability of at least 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Median {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// The median of `values`; `None` of none.
///
/// The interval is free of assumptions on how the values are distributed: how many of them lie below the true median is
/// a matter of tossing coins.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<Median> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let last = count.checked_sub(1)?;
    let value = (values[last / 2] + values[count / 2]) / 2.0;
    let off = ((count as f64 - 1.96 * (count as f64).sqrt()) / 2.0).floor().max(0.0) as usize;
    let off = off.min(last / 2);
    Some(Median { value, low: values[off], high: values[last - off] })
}

/// The geometric mean: the one that makes sense of ratios. `None` of none.
pub(super) fn geometric_mean(ratios: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = ratios.into_iter().fold((0.0, 0), |(sum, count), ratio| (sum + ratio.ln(), count + 1));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_lie_in_the_middle_of_their_interval() {
        let of_31 = median((1..=31).rev().map(f64::from)).unwrap();
        // Rank 11 to 21 of 31: the binomial distribution says 0.957 or so.
        assert_eq!(of_31, Median { value: 16.0, low: 11.0, high: 21.0 });
        assert_eq!(median([1.0, 4.0]).unwrap(), Median { value: 2.5, low: 1.0, high: 4.0 });
        assert_eq!(median([3.0]).unwrap(), Median { value: 3.0, low: 3.0, high: 3.0 });
        assert_eq!(median([]), None);
    }

    #[test]
    fn a_half_and_a_double_cancel_out() {
        assert!((geometric_mean([0.5, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean([]), None);
    }
}
