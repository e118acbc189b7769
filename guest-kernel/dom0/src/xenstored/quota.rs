//! How much of xenstored one unprivileged domain may use. The names are those of `xenstore-control quota`,
//! the defaults those of Xen 4.17's daemon. Its limit on outstanding requests needs no number here: the next
//! request is read once the last one's reply is in the ring.

/// One limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Quota {
    /// Nodes a domain owns.
    Nodes,
    /// Bytes of one node: value, permissions and child names.
    NodeSize,
    /// Permission entries of one node.
    NodePermissions,
    /// Watches a connection has.
    Watches,
    /// Transactions a connection has open.
    Transactions,
    /// Nodes one transaction reads or writes.
    TransactionNodes,
    /// Bytes of a path, not counting the caller's `/local/domain/N/`.
    PathLength,
    /// Bytes that the daemon keeps for a domain.
    Memory,
}

impl Quota {
    /// Every limit.
    pub const ALL: [Quota; 8] = [
        Quota::Nodes,
        Quota::NodeSize,
        Quota::NodePermissions,
        Quota::Watches,
        Quota::Transactions,
        Quota::TransactionNodes,
        Quota::PathLength,
        Quota::Memory,
    ];

    /// The name an administrator uses.
    pub fn name(self) -> &'static str {
        match self {
            Quota::Nodes => "nodes",
            Quota::NodeSize => "node-size",
            Quota::NodePermissions => "node-permissions",
            Quota::Watches => "watches",
            Quota::Transactions => "transactions",
            Quota::TransactionNodes => "transaction-nodes",
            Quota::PathLength => "path-max",
            Quota::Memory => "memory",
        }
    }

    /// The error that a client gets when it reaches this limit.
    pub fn wire(self) -> &'static str {
        match self {
            Quota::Watches => "E2BIG",
            Quota::PathLength => "EINVAL",
            Quota::Memory => "ENOMEM",
            _ => "ENOSPC",
        }
    }

    /// The limit of this name.
    pub fn from_name(name: &str) -> Option<Quota> {
        Quota::ALL.into_iter().find(|quota| quota.name() == name)
    }
}

/// The limits in force. They bind every connection but the privileged ones.
#[derive(Clone, Debug)]
pub struct Quotas([usize; Quota::ALL.len()]);

impl Quotas {
    /// The value of one limit.
    pub fn get(&self, quota: Quota) -> usize {
        self.0[quota as usize]
    }

    /// Changes one limit; it applies from the next request.
    pub fn set(&mut self, quota: Quota, value: usize) {
        self.0[quota as usize] = value;
    }
}

impl Default for Quotas {
    fn default() -> Self {
        let mut quotas = Quotas([0; Quota::ALL.len()]);
        for quota in Quota::ALL {
            let value = match quota {
                Quota::Nodes => 1000,
                Quota::NodeSize => 2048,
                Quota::NodePermissions => 5,
                Quota::Watches => 128,
                Quota::Transactions => 10,
                Quota::TransactionNodes => 1024,
                Quota::PathLength => 2048,
                Quota::Memory => 2 * 1024 * 1024 + 512 * 1024,
            };
            quotas.set(quota, value);
        }
        quotas
    }
}
