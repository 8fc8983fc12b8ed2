//! The order of the models in each round: rotated, so that over the rounds each has every place.
//!
//! Who runs after whom may matter: to the caches of the processor, to sockets in TIME_WAIT, to the temperature.

use super::Racer;
use crate::client::Model;

/// The models in the order of this round, counted from 1. The blocking one is the last of the first round: once another has
/// run, it is known how long it will take.
pub fn rotated(models: &[Racer], round: usize) -> Vec<Racer> {
    let mut order = models.to_vec();
    order.sort_by_key(|model| *model == Model::Blocking);
    if !order.is_empty() {
        let by = (round - 1) % order.len();
        order.rotate_left(by);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_has_every_place_once() {
        let all = Model::ALL.map(Racer::from);
        let rounds: Vec<Vec<Racer>> = (1..=4).map(|round| rotated(&all, round)).collect();
        assert_eq!(rounds[0].last(), Some(&Model::Blocking.into()));
        for model in Model::ALL {
            let mut places: Vec<Option<usize>> =
                rounds.iter().map(|round| round.iter().position(|one| *one == model)).collect();
            places.sort_unstable();
            assert_eq!(places, [Some(0), Some(1), Some(2), Some(3)], "{model}");
        }
        assert_eq!(rotated(&all, 5), rounds[0]);
        assert!(rotated(&[], 1).is_empty());
    }
}
