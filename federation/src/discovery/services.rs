//! The order in which the targets of a service are tried (RFC 2782).

use hearth_endpoint::outgoing::Srv;
use hearth_engine::Entropy;

/// By priority; among those of one priority, chosen one after the other with the odds of their weights.
pub(super) fn ordered(mut services: Vec<Srv>, random: &mut (dyn FnMut(u64) -> u64 + Send)) -> Vec<Srv> {
    // Those of weight 0 first, as the RFC has it, so that they are chosen too, if seldom.
    services.sort_by_key(|service| (service.priority, service.weight));
    let mut ordered = Vec::with_capacity(services.len());
    while let Some(first) = services.first() {
        let priority = first.priority;
        let count = services
            .iter()
            .take_while(|service| service.priority == priority)
            .count();
        let total: u64 = services[..count]
            .iter()
            .map(|service| u64::from(service.weight))
            .sum();
        let drawn = random(total + 1);
        let mut sum = 0;
        let chosen = services[..count].iter().position(|service| {
            sum += u64::from(service.weight);
            sum >= drawn
        });
        ordered.push(services.remove(chosen.unwrap_or(0)));
    }
    ordered
}

/// A number below `below`, which is small beside what eight bytes hold: the odds are as good as even.
pub(super) fn random(entropy: &dyn Entropy, below: u64) -> u64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    u64::from_le_bytes(bytes).checked_rem(below).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16) -> Srv {
        Srv {
            priority,
            weight,
            port: 1,
            target: format!("{priority}-{weight}"),
        }
    }

    fn order(services: &[Srv], draws: &[u64]) -> Vec<String> {
        let mut draws = draws.iter().copied();
        let ordered = ordered(services.to_vec(), &mut |below| {
            let drawn = draws.next().expect("a draw for each");
            assert!(drawn < below, "{drawn} of {below}");
            drawn
        });
        ordered.into_iter().map(|service| service.target).collect()
    }

    #[test]
    fn priority_goes_before_weight() {
        let services = [service(20, 100), service(10, 1), service(10, 0)];
        assert_eq!(order(&services, &[0, 0, 0]), ["10-0", "10-1", "20-100"]);
    }

    #[test]
    fn weights_are_odds() {
        let services = [service(0, 0), service(0, 10), service(0, 30)];
        assert_eq!(order(&services, &[0, 10, 0]), ["0-0", "0-10", "0-30"]);
        assert_eq!(order(&services, &[10, 11, 0]), ["0-10", "0-30", "0-0"]);
        assert_eq!(order(&services, &[11, 0, 0]), ["0-30", "0-0", "0-10"]);
        assert_eq!(order(&services, &[40, 0, 0]), ["0-30", "0-0", "0-10"]);
    }
}
