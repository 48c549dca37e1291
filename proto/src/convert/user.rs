//! Users.

use shoal_types::object::User;
use shoal_types::spec::{UserRole, UserSpec};

use super::field;
use super::{choice, message};

message!(UserSpec {
    name: Same,
    labels: Same,
    role: Choice,
    stacks: Same,
    host_access: Same,
    expires_at: OptionalTime,
});

choice!(UserRole { Viewer, Deployer, Operator, Admin });

message!(User { id: Text, meta: Message, spec: Message });
