//! The fence of routing rules (ip-rule(8)) in the kernel.

use std::future::ready;

use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rustix::io::Errno;
use shoal_agent_planning::network::fence::{END, FenceRule, MARK, PRIORITIES};
use shoal_agent_planning::network::{Family, ingress};
use shoal_agent_planning::node::host::ObservedFence;

use super::NetworkError;
use super::netlink::{Links, failed, is};

const LOOPBACK: &str = "lo";
/// Number of the table of the host's own addresses (rtnetlink(7)).
const TABLE_LOCAL: u8 = 255;

impl Links {
    /// The rules of the fence that there are of a family; `None` where the kernel has no routing rules
    /// (`CONFIG_IP_MULTIPLE_TABLES`), or nothing of the family.
    pub(super) async fn observe_fence(
        &self,
        family: Family,
    ) -> Result<Option<ObservedFence>, NetworkError> {
        let all: Vec<RuleMessage> =
            match self.handle.rule().get(version(family)).execute().try_collect().await {
                Err(error) if is(&error, Errno::OPNOTSUPP) || is(&error, Errno::AFNOSUPPORT) => {
                    return Ok(None);
                }
                result => result.map_err(failed(|| "list routing rules"))?,
            };
        let all: Vec<RuleMessage> = all.into_iter().filter(|one| is_of(one, family)).collect();
        let present = all.iter().filter_map(read).collect();
        Ok(Some(ObservedFence { present, has_domains: all.iter().any(is_of_domains) }))
    }

    /// Adds a rule, if it is not there.
    pub(super) async fn add_rule(
        &self,
        family: Family,
        rule: &FenceRule,
    ) -> Result<(), NetworkError> {
        // What no version makes any more is never wanted.
        let Some(message) = write(family, rule) else { return Ok(()) };
        let mut request = self.handle.rule().add();
        *request.message_mut() = message;
        match request.execute().await {
            Err(error) if is(&error, Errno::EXIST) => Ok(()),
            result => result.map_err(failed(|| format!("add routing rule {rule}"))),
        }
    }

    /// Removes a rule, if it is there.
    pub(super) async fn remove_rule(
        &self,
        family: Family,
        rule: &FenceRule,
    ) -> Result<(), NetworkError> {
        let messages = match write(family, rule) {
            Some(message) => vec![message],
            // As the kernel shows them, since nobody knows what they are.
            None => {
                let all = self.handle.rule().get(version(family)).execute();
                let all = all.try_filter(|message| {
                    ready(is_of(message, family) && read(message).as_ref() == Some(rule))
                });
                all.try_collect().await.map_err(failed(|| "list routing rules"))?
            }
        };
        for message in messages {
            match self.handle.rule().del(message).execute().await {
                Err(error) if is(&error, Errno::NOENT) => {}
                result => result.map_err(failed(|| format!("remove routing rule {rule}")))?,
            }
        }
        Ok(())
    }
}

/// The protocol of the fence's rules: systemd-networkd removes rules of others, but for those of the kernel
/// (networkd.conf(5), ManageForeignRoutingPolicyRules=).
const PROTOCOL: RouteProtocol = RouteProtocol::Kernel;

/// The rule as the kernel wants it; `None` for one that this version does not make.
fn write(family: Family, rule: &FenceRule) -> Option<RuleMessage> {
    let mut message = RuleMessage::default();
    message.header.family = wired(family);
    message.attributes.push(RuleAttribute::Priority(rule.priority()));
    message.attributes.push(RuleAttribute::Protocol(PROTOCOL));
    let goto = |message: &mut RuleMessage| {
        message.header.action = RuleAction::Goto;
        message.attributes.push(RuleAttribute::Goto(END));
    };
    let from = |name: &str| RuleAttribute::Iifname(name.to_owned());
    message.header.action = RuleAction::Prohibit;
    match rule {
        FenceRule::End => message.header.action = RuleAction::Nop,
        FenceRule::Receive => {
            message.header.action = RuleAction::ToTable;
            message.header.table = TABLE_LOCAL;
        }
        FenceRule::PassMarked => {
            goto(&mut message);
            message.attributes.push(RuleAttribute::FwMark(MARK));
            message.attributes.push(RuleAttribute::FwMask(MARK));
        }
        FenceRule::PassArrived(device) => {
            goto(&mut message);
            message.attributes.push(from(device));
            message.attributes.push(RuleAttribute::FwMark(ingress::MARK));
            message.attributes.push(RuleAttribute::FwMask(ingress::MARK));
        }
        FenceRule::ByMesh => {
            message.header.action = RuleAction::ToTable;
            message.attributes.push(RuleAttribute::Table(ingress::NETWORK));
            message.attributes.push(RuleAttribute::FwMark(ingress::MARK));
            message.attributes.push(RuleAttribute::FwMask(ingress::MARK));
        }
        FenceRule::PassOwn => {
            goto(&mut message);
            message.attributes.push(from(LOOPBACK));
        }
        FenceRule::PassFromGuest(bridge) => {
            goto(&mut message);
            message.attributes.push(from(bridge));
        }
        FenceRule::PassToGuest(subnet) => {
            goto(&mut message);
            message.header.dst_len = subnet.prefix_len();
            message.attributes.push(RuleAttribute::Destination(subnet.network()));
        }
        FenceRule::CloseBridge(bridge) => message.attributes.push(from(bridge)),
        FenceRule::CloseSubnet(subnet) => {
            message.header.dst_len = subnet.prefix_len();
            message.attributes.push(RuleAttribute::Destination(subnet.network()));
        }
        FenceRule::CloseAll => {
            message.header.flags |= RuleFlags::Invert;
            message.attributes.push(from(LOOPBACK));
        }
        FenceRule::Former(_) => return None,
    }
    Some(message)
}

fn version(family: Family) -> IpVersion {
    match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    }
}

fn wired(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// A kernel without a family lists the rules of others for it.
fn is_of(message: &RuleMessage, family: Family) -> bool {
    message.header.family == wired(family)
}

/// Whether it leads into routing domains (kernel, "Virtual Routing and Forwarding").
fn is_of_domains(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::L3MDev(true))
}

/// A rule of the fence; `None` for those of others.
fn read(message: &RuleMessage) -> Option<FenceRule> {
    let (mut priority, mut ours) = (0, false);
    let (mut from, mut to, mut mark, mut table) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Iifname(name) => from = Some(name.clone()),
            RuleAttribute::Destination(address) => {
                to = IpNet::new(*address, message.header.dst_len).ok();
            }
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::Table(number) => table = Some(*number),
            RuleAttribute::Protocol(protocol) => ours = *protocol == PROTOCOL,
            _ => {}
        }
    }
    if !PRIORITIES.contains(&priority) {
        return None;
    }
    let known = known(message, from, to, mark, table).filter(|rule| rule.priority() == priority);
    known.or(ours.then_some(FenceRule::Former(priority)))
}

/// The rule of this version that does the same.
fn known(
    message: &RuleMessage,
    from: Option<String>,
    to: Option<IpNet>,
    mark: Option<u32>,
    table: Option<u32>,
) -> Option<FenceRule> {
    let inverted = message.header.flags.contains(RuleFlags::Invert);
    Some(match (message.header.action, from, to) {
        (RuleAction::Nop, None, None) => FenceRule::End,
        (RuleAction::ToTable, None, None) if message.header.table == TABLE_LOCAL => {
            FenceRule::Receive
        }
        (RuleAction::ToTable, None, None)
            if table == Some(ingress::NETWORK) && mark == Some(ingress::MARK) =>
        {
            FenceRule::ByMesh
        }
        (RuleAction::Goto, None, None) if mark == Some(MARK) => FenceRule::PassMarked,
        (RuleAction::Goto, Some(name), None) if mark == Some(ingress::MARK) => {
            FenceRule::PassArrived(name)
        }
        (RuleAction::Goto, Some(name), None) if name == LOOPBACK => FenceRule::PassOwn,
        (RuleAction::Goto, Some(name), None) => FenceRule::PassFromGuest(name),
        (RuleAction::Goto, None, Some(subnet)) => FenceRule::PassToGuest(subnet),
        (RuleAction::Prohibit, Some(name), None) if inverted && name == LOOPBACK => {
            FenceRule::CloseAll
        }
        (RuleAction::Prohibit, Some(name), None) => FenceRule::CloseBridge(name),
        (RuleAction::Prohibit, None, Some(subnet)) => FenceRule::CloseSubnet(subnet),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let rules = [
            FenceRule::End,
            FenceRule::Receive,
            FenceRule::PassMarked,
            FenceRule::PassArrived("shvx0".to_owned()),
            FenceRule::ByMesh,
            FenceRule::PassOwn,
            FenceRule::CloseBridge("shb0".to_owned()),
            FenceRule::CloseSubnet("172.20.0.0/24".parse().unwrap()),
            FenceRule::PassFromGuest("docker0".to_owned()),
            FenceRule::PassToGuest("172.17.0.0/16".parse().unwrap()),
            FenceRule::CloseAll,
        ];
        for rule in rules {
            let mut message = write(Family::V4, &rule).unwrap();
            assert_eq!(read(&message).as_ref(), Some(&rule));
            // Where this version has another one, it is that of another version.
            let other = *PRIORITIES.start() + u32::from(rule.priority() == *PRIORITIES.start());
            message.attributes[0] = RuleAttribute::Priority(other);
            assert_eq!(read(&message), Some(FenceRule::Former(other)));
            // Elsewhere it is somebody else's, as is what does not say that it is ours.
            message.attributes[0] = RuleAttribute::Priority(1000);
            assert_eq!(read(&message), None);
            message.attributes[0] = RuleAttribute::Priority(other);
            message.attributes[1] = RuleAttribute::Protocol(RouteProtocol::Boot);
            assert_eq!(read(&message), None);
        }
        assert!(write(Family::V4, &FenceRule::Former(62)).is_none());
        let subnet = FenceRule::CloseSubnet("fd00:1::/64".parse().unwrap());
        let message = write(Family::V6, &subnet).unwrap();
        assert!(is_of(&message, Family::V6) && !is_of(&message, Family::V4));
        assert_eq!(read(&message), Some(subnet));
    }
}
