//! Dividing training images among nodes, alike or skewed, as experiments in federated learning do.

use crate::random_stream::{Purpose, RandomStream, StreamKey};

/// How images are divided.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Partition {
    /// Shuffled and dealt out evenly.
    #[default]
    Iid,
    /// Each class is divided in proportions drawn from a symmetric Dirichlet distribution with this concentration: the
    /// smaller, the more skewed (Yurochkin et al. 2019, section 4; from 0.01 on, below which the draws underflow).
    Dirichlet(f64),
    /// Sorted by label and cut into this many shards a part, dealt out at random (McMahan et al. 2017, section 3).
    Shards(usize),
    /// Each part has images of this many classes, or of as many more as it takes for every class to be somewhere;
    /// those of a class are divided evenly among the parts that have it (Li et al. 2022, section 4.1).
    Labels(usize),
    /// Shuffled, and sizes in proportion to k^-exponent for k = 1, 2, ... parts, dealt out at random; 0 is
    /// [`Self::Iid`].
    PowerLaw(f64),
}

/// The indices of the images of each part: disjoint, together all of them, none empty while there are as many images as
/// parts. A function of the arguments.
pub fn partition(labels: &[u16], classes: usize, parts: usize, rule: &Partition, seed: u64) -> Vec<Vec<u32>> {
    if parts == 0 {
        return Vec::new();
    }
    let mut stream = RandomStream::new(&StreamKey { seed, round: 0, node: &[], purpose: Purpose::Partition, index: 0 });
    let mut order: Vec<u32> = (0..labels.len() as u32).collect();
    stream.shuffle(&mut order);
    let mut divided = match *rule {
        Partition::Iid => deal(&order, parts),
        Partition::Dirichlet(concentration) => dirichlet(&order, labels, classes, parts, concentration, &mut stream),
        Partition::Shards(shards) => {
            // Stable, so the images of a class stay shuffled.
            order.sort_by_key(|&index| labels[index as usize]);
            let mut shards = deal(&order, parts.saturating_mul(shards.max(1)).min(labels.len().max(parts)));
            stream.shuffle(&mut shards);
            let mut divided = vec![Vec::new(); parts];
            shards.into_iter().enumerate().for_each(|(i, shard)| divided[i % parts].extend(shard));
            divided
        }
        Partition::Labels(count) => by_labels(&order, labels, classes, parts, count, &mut stream),
        Partition::PowerLaw(exponent) => power_law(&order, parts, exponent, &mut stream),
    };
    fill_empty(&mut divided);
    divided.iter_mut().for_each(|part| part.sort_unstable());
    divided
}

/// Consecutive pieces whose lengths differ by one at most.
fn deal(order: &[u32], parts: usize) -> Vec<Vec<u32>> {
    let border = |i: usize| order.len() * i / parts;
    (0..parts).map(|i| order[border(i)..border(i + 1)].to_vec()).collect()
}

fn dirichlet(
    order: &[u32],
    labels: &[u16],
    classes: usize,
    parts: usize,
    concentration: f64,
    stream: &mut RandomStream,
) -> Vec<Vec<u32>> {
    let mut divided = vec![Vec::new(); parts];
    for class in 0..classes {
        let members: Vec<u32> =
            order.iter().copied().filter(|&index| usize::from(labels[index as usize]) == class).collect();
        let draws: Vec<f64> = (0..parts).map(|_| gamma(concentration, stream)).collect();
        let total: f64 = draws.iter().sum();
        let (mut sum, mut start) = (0.0, 0);
        for (part, draw) in draws.iter().enumerate() {
            sum += draw;
            let share = if total > 0.0 { sum / total } else { (part + 1) as f64 / parts as f64 };
            let end = if part + 1 == parts { members.len() } else { (share * members.len() as f64) as usize };
            let end = end.clamp(start, members.len());
            divided[part].extend_from_slice(&members[start..end]);
            start = end;
        }
    }
    divided
}

fn by_labels(
    order: &[u32],
    labels: &[u16],
    classes: usize,
    parts: usize,
    count: usize,
    stream: &mut RandomStream,
) -> Vec<Vec<u32>> {
    let count = count.max(classes.div_ceil(parts)).min(classes);
    // Classes are dealt from shuffled decks of all of them, so that each goes to about as many parts.
    let mut holders = vec![Vec::new(); classes];
    let mut deck: Vec<usize> = Vec::new();
    for part in 0..parts {
        let mut held: Vec<usize> = Vec::with_capacity(count);
        while held.len() < count {
            let Some(place) = deck.iter().position(|class| !held.contains(class)) else {
                let mut fresh: Vec<usize> = (0..classes).collect();
                stream.shuffle(&mut fresh);
                deck.extend(fresh);
                continue;
            };
            held.push(deck.remove(place));
        }
        held.into_iter().for_each(|class| holders[class].push(part));
    }
    let mut divided = vec![Vec::new(); parts];
    for (class, holders) in holders.iter().enumerate() {
        let members: Vec<u32> =
            order.iter().copied().filter(|&index| usize::from(labels[index as usize]) == class).collect();
        for (piece, &part) in deal(&members, holders.len()).into_iter().zip(holders) {
            divided[part].extend(piece);
        }
    }
    divided
}

fn power_law(order: &[u32], parts: usize, exponent: f64, stream: &mut RandomStream) -> Vec<Vec<u32>> {
    let weights: Vec<f64> = (1..=parts).map(|k| libm::pow(k as f64, -exponent)).collect();
    let total: f64 = weights.iter().sum();
    let (mut sum, mut start) = (0.0, 0);
    let mut divided: Vec<Vec<u32>> = weights
        .iter()
        .enumerate()
        .map(|(k, weight)| {
            sum += weight;
            let end = if k + 1 == parts { order.len() } else { (sum / total * order.len() as f64) as usize };
            let end = end.clamp(start, order.len());
            let piece = order[start..end].to_vec();
            start = end;
            piece
        })
        .collect();
    stream.shuffle(&mut divided);
    divided
}

/// A draw from the gamma distribution with this shape and scale 1 (Marsaglia and Tsang 2000), through `libm`.
fn gamma(shape: f64, stream: &mut RandomStream) -> f64 {
    if !(shape.is_finite() && shape > 0.0) {
        return 1.0;
    }
    if shape < 1.0 {
        // The draw for shape + 1, scaled by a power of a uniform one; 1 - u is above 0.
        let uniform = 1.0 - f64::from(stream.unit());
        return gamma(shape + 1.0, stream) * libm::pow(uniform, 1.0 / shape);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = stream.normal();
        let v = (1.0 + c * x) * (1.0 + c * x) * (1.0 + c * x);
        let uniform = 1.0 - f64::from(stream.unit());
        if v > 0.0 && libm::log(uniform) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return d * v;
        }
    }
}

/// Gives each empty part an image of the largest one.
fn fill_empty(parts: &mut [Vec<u32>]) {
    while let Some(empty) = parts.iter().position(Vec::is_empty) {
        let Some(largest) = (0..parts.len()).rev().max_by_key(|&i| parts[i].len()) else { return };
        if parts[largest].len() < 2 {
            return;
        }
        let moved = parts[largest].pop();
        parts[empty].extend(moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(count: usize) -> Vec<u16> {
        (0..count).map(|i| (i * 7 % 10) as u16).collect()
    }

    fn kinds(part: &[u32], labels: &[u16]) -> usize {
        let mut kinds: Vec<u16> = part.iter().map(|&index| labels[index as usize]).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.len()
    }

    fn rule() -> impl Strategy<Value = Partition> {
        prop_oneof![
            Just(Partition::Iid),
            (0.01f64..10.0).prop_map(Partition::Dirichlet),
            (0usize..5).prop_map(Partition::Shards),
            (0usize..12).prop_map(Partition::Labels),
            (0f64..3.0).prop_map(Partition::PowerLaw)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn parts_are_disjoint_cover_everything_and_repeat(
            count in 0usize..300, parts in 1usize..20, rule in rule(), seed in any::<u64>()
        ) {
            let labels = labels(count);
            let divided = partition(&labels, 10, parts, &rule, seed);
            prop_assert_eq!(divided.len(), parts);
            let mut all: Vec<u32> = divided.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..count as u32).collect::<Vec<_>>());
            prop_assert!(count < parts || divided.iter().all(|part| !part.is_empty()));
            prop_assert_eq!(divided, partition(&labels, 10, parts, &rule, seed));
        }
    }

    #[test]
    fn iid_parts_are_even_and_hold_every_class() {
        let labels = labels(1000);
        for part in partition(&labels, 10, 7, &Partition::Iid, 1) {
            assert!((142..=143).contains(&part.len()));
            assert_eq!(kinds(&part, &labels), 10);
        }
    }

    #[test]
    fn two_shards_give_about_two_classes() {
        let labels = labels(1000);
        let parts = partition(&labels, 10, 10, &Partition::Shards(2), 1);
        assert!(parts.iter().all(|part| part.len() == 100 && kinds(part, &labels) <= 2));
    }

    #[test]
    fn parts_by_labels_have_that_many_classes_and_every_class_is_somewhere() {
        let labels = labels(2000);
        for (parts, count, expected) in [(10, 2, 2), (30, 3, 3), (3, 1, 4), (4, 99, 10)] {
            let divided = partition(&labels, 10, parts, &Partition::Labels(count), 7);
            assert!(divided.iter().all(|part| kinds(part, &labels) == expected), "{parts} parts of {count}");
        }
    }

    #[test]
    fn a_power_law_gives_sizes_in_its_proportion() {
        let labels = labels(6000);
        let divided = partition(&labels, 10, 3, &Partition::PowerLaw(1.0), 1);
        let mut sizes: Vec<usize> = divided.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        // 1 : 1/2 : 1/3 of 6000.
        assert!(sizes.iter().zip([1090, 1636, 3272]).all(|(found, near)| found.abs_diff(near) <= 2), "{sizes:?}");
        let even = partition(&labels, 10, 3, &Partition::PowerLaw(0.0), 1);
        assert!(even.iter().all(|part| part.len() == 2000));
    }

    #[test]
    fn a_small_concentration_skews_and_a_large_one_does_not() {
        let labels = labels(5000);
        let largest_share = |concentration| {
            let parts = partition(&labels, 10, 5, &Partition::Dirichlet(concentration), 3);
            let in_part = |part: &Vec<u32>| part.iter().filter(|&&index| labels[index as usize] == 0).count();
            parts.iter().map(in_part).max().unwrap_or(0)
        };
        assert!(largest_share(0.05) > 300, "{}", largest_share(0.05));
        assert!(largest_share(1000.0) < 130, "{}", largest_share(1000.0));
    }

    #[test]
    fn another_seed_divides_otherwise() {
        let labels = labels(100);
        assert_ne!(partition(&labels, 10, 4, &Partition::Iid, 1), partition(&labels, 10, 4, &Partition::Iid, 2));
    }
}
