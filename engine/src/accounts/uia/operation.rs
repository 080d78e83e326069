//! What is authorised: an operation, whose it is, and what it would do.

use ruma::OwnedDeviceId;
use sha2::{Digest, Sha256};

use super::Stage;
use crate::accounts::{Password, Requester, secrets::SecretHash};

/// Stages to be completed in this order.
pub type Flow = &'static [Stage];

/// Whoever is there may register.
const ANYBODY: &[Flow] = &[&[Stage::Dummy]];

/// The owner of an account shows that it is them.
const OWNER: &[Flow] = &[&[Stage::Password]];

/// An operation that wants authentication. Two are the same for a session when they would do the same.
#[derive(Debug, Clone)]
pub struct Operation {
    digest: SecretHash,
    flows: &'static [Flow],
}

impl Operation {
    /// To register. The name and all else may change during the dialogue: a name may have been taken meanwhile.
    pub fn register() -> Self {
        Self::new("register", ANYBODY, None, &[])
    }

    /// To change one's password.
    pub fn change_password(requester: &Requester, new_password: &Password, logout_devices: bool) -> Self {
        Self::of_owner(
            "change_password",
            requester,
            &[new_password.as_bytes(), &[u8::from(logout_devices)]],
        )
    }

    /// To deactivate one's account.
    pub fn deactivate(requester: &Requester, erase: bool) -> Self {
        Self::of_owner("deactivate", requester, &[&[u8::from(erase)]])
    }

    /// To delete these of one's devices, in whatever order.
    pub fn delete_devices(requester: &Requester, device_ids: &[OwnedDeviceId]) -> Self {
        let mut device_ids: Vec<&[u8]> = device_ids.iter().map(|device_id| device_id.as_bytes()).collect();
        device_ids.sort_unstable();
        device_ids.dedup();
        Self::of_owner("delete_devices", requester, &device_ids)
    }

    /// Something that only the owner of an account may do: `name` tells it from other operations, and `parts` what
    /// it would do from what else it might.
    pub fn of_owner(name: &str, requester: &Requester, parts: &[&[u8]]) -> Self {
        Self::new(name, OWNER, Some(requester), parts)
    }

    fn new(name: &str, flows: &'static [Flow], requester: Option<&Requester>, parts: &[&[u8]]) -> Self {
        let user_id = requester.map_or("", |requester| requester.user_id.as_str());
        let mut digest = Sha256::new();
        for part in [name.as_bytes(), user_id.as_bytes()].iter().chain(parts) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Self {
            digest: digest.finalize().into(),
            flows,
        }
    }

    pub(super) fn digest(&self) -> &SecretHash {
        &self.digest
    }

    pub(super) fn flows(&self) -> &'static [Flow] {
        self.flows
    }

    /// Whether `stage` comes next in a flow that began with `completed`.
    pub(super) fn continues(&self, completed: &[Stage], stage: Stage) -> bool {
        self.flows
            .iter()
            .any(|flow| flow.starts_with(completed) && flow.get(completed.len()) == Some(&stage))
    }

    /// Whether `completed` is all of a flow.
    pub(super) fn is_complete(&self, completed: &[Stage]) -> bool {
        self.flows.contains(&completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_come_in_the_order_of_a_flow() {
        let flows: &[Flow] = &[&[Stage::Password, Stage::Dummy]];
        let operation = Operation::new("test", flows, None, &[]);
        assert!(operation.continues(&[], Stage::Password));
        assert!(!operation.continues(&[], Stage::Dummy));
        assert!(operation.continues(&[Stage::Password], Stage::Dummy));
        assert!(!operation.is_complete(&[Stage::Password]));
        assert!(operation.is_complete(&[Stage::Password, Stage::Dummy]));
    }

    #[test]
    fn operations_that_differ_in_any_part_differ() {
        let digest = |name: &str, parts: &[&[u8]]| *Operation::new(name, OWNER, None, parts).digest();
        assert_eq!(digest("a", &[b"b"]), digest("a", &[b"b"]));
        assert_ne!(digest("a", &[b"b"]), digest("a", &[b"c"]));
        assert_ne!(digest("a", &[b"b", b"c"]), digest("a", &[b"bc"]));
        assert_ne!(digest("ab", &[]), digest("a", &[b"b"]));
    }
}
