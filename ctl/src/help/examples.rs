//! Examples in help pages.

/// By command; every command has some. Each line is one that works as it stands.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    (
        "init",
        "shoalctl init\nshoalctl init --advertise-addr 10.0.0.1\n\
         shoalctl init --default-addr-pool 10.20.0.0/16 --default-addr-pool-mask-length 26",
    ),
    ("join", "shoalctl join --token-file token.txt 10.0.0.1:4242"),
    ("leave", "shoalctl leave\nshoalctl leave --timeout 1m\nshoalctl leave --force"),
    ("join-token", "shoalctl join-token worker\nshoalctl join-token --rotate worker"),
    ("cluster inspect", "shoalctl cluster inspect --pretty"),
    (
        "cluster update",
        "shoalctl cluster update --task-history-limit 2\n\
         shoalctl cluster update --dispatcher-heartbeat 5s --cert-expiry 720h",
    ),
    ("cluster upgrade", "shoalctl cluster upgrade\nshoalctl cluster upgrade --level 2"),
    ("node ls", "shoalctl node ls --filter label=disk=ssd"),
    (
        "node update",
        "shoalctl node update --label-add disk=ssd h2\nshoalctl node update --availability drain h2",
    ),
    (
        "login",
        "shoalctl login registry.lan:5000\n\
         shoalctl login --username ci --password-stdin registry.lan:5000",
    ),
    (
        "service create",
        "shoalctl service create --name web --replicas 3 -p 80:8080 registry.lan/web:1\n\
         shoalctl service create --name db --mount type=volume,source=data,target=/var/lib/data \\\n    \
         --constraint node.labels.disk==ssd --limit-memory 512m registry.lan/db:1",
    ),
    (
        "service update",
        "shoalctl service update --image registry.lan/web:2 web\n\
         shoalctl service update --env-add LEVEL=debug --update-order start-first web",
    ),
    ("service scale", "shoalctl service scale web=5 worker=2"),
    (
        "service logs",
        "shoalctl service logs -f --tail 20 web\nshoalctl service logs --since 10m web.1",
    ),
    (
        "stack deploy",
        "shoalctl stack deploy -c stack.yaml shop\n\
         VERSION=2 shoalctl --format json stack deploy -c stack.yaml --timeout 5m shop",
    ),
    ("stack config", "shoalctl stack config -c stack.yaml -c stack.prod.yaml"),
    (
        "network create",
        "shoalctl network create --driver bridge --subnet 10.1.0.0/24 back\n\
         shoalctl network create --driver overlay back\n\
         shoalctl network create -d overlay --subnet 10.1.0.0/24 --ip-range 10.1.0.128/25 \\\n\
         \x20   --aux-address router=10.1.0.200 back",
    ),
    (
        "volume ls",
        "shoalctl volume ls --filter dangling=true\nshoalctl volume ls -q --filter node=h1",
    ),
    ("volume rm", "shoalctl volume rm shop_data\nshoalctl volume rm --node h1 shop_data"),
    ("volume prune", "shoalctl volume prune\nshoalctl volume prune --all --filter label!=keep"),
    ("stats", "shoalctl stats --no-stream\nshoalctl stats --format {{.Name}}:{{.CPUPerc}} web"),
    ("service stats", "shoalctl service stats --no-stream"),
    ("system df", "shoalctl system df\nshoalctl system df h1"),
    ("system prune", "shoalctl system prune\nshoalctl system prune --all --volumes --node h1"),
    ("node stats", "shoalctl node stats h1"),
    ("exec", "shoalctl exec -it web.1 sh\nshoalctl exec web.1 cat /etc/hosts"),
    (
        "events",
        "shoalctl events --since 10m --filter type=task\nshoalctl events --since 1h --until 30m",
    ),
    (
        "context export",
        "shoalctl context export --output prod.yaml prod\n\
         shoalctl context export --output - | ssh other shoalctl context import -",
    ),
    ("context import", "shoalctl context import ci.yaml\nshoalctl context import --name ci -"),
    (
        "user create",
        "shoalctl user create ci --role deployer --stack shop --expires 90d --output ci.yaml\n\
         shoalctl user create ann --role operator --output ann.yaml",
    ),
    (
        "user update",
        "shoalctl user update --stack-add blog ci\nshoalctl user update --expires never ci",
    ),
    ("image load", "shoalctl image load -i image.tar"),
    ("completion", "shoalctl completion bash > /etc/bash_completion.d/shoalctl"),
    ("info", "shoalctl info\nshoalctl info --format {{.Host.State}}"),
    ("version", "shoalctl version\nshoalctl version --format {{.Client.Version}}"),
    ("ps", "shoalctl ps --filter node=h1\nshoalctl ps --format {{.Name}}"),
    ("node ps", "shoalctl node ps h1 h2\nshoalctl node ps --filter desired-state=running h1"),
    ("node inspect", "shoalctl node inspect --pretty h1"),
    ("node promote", "shoalctl node promote h2 h3"),
    ("node demote", "shoalctl node demote h3"),
    ("node rm", "shoalctl node rm h3\nshoalctl node rm --force h3"),
    ("service ls", "shoalctl service ls --filter name=web\nshoalctl service ls -q"),
    ("service ps", "shoalctl service ps web\nshoalctl service ps --no-trunc web"),
    (
        "service inspect",
        "shoalctl service inspect --pretty web\nshoalctl service inspect --format {{.ID}} web",
    ),
    ("service rollback", "shoalctl service rollback web"),
    ("service rm", "shoalctl service rm web worker"),
    ("stack ls", "shoalctl stack ls"),
    ("stack ps", "shoalctl stack ps shop\nshoalctl stack ps --filter node=h1 shop"),
    ("stack services", "shoalctl stack services shop"),
    ("stack inspect", "shoalctl stack inspect shop"),
    ("stack rollback", "shoalctl stack rollback shop\nshoalctl stack rollback --to 3 shop"),
    ("stack rm", "shoalctl stack rm shop"),
    (
        "secret create",
        "shoalctl secret create db-password ./password\n\
         openssl rand -base64 24 | shoalctl secret create -l team=shop db-password -",
    ),
    ("secret update", "shoalctl secret update db-password ./new-password"),
    ("secret ls", "shoalctl secret ls --filter label=team=shop"),
    (
        "secret inspect",
        "shoalctl secret inspect db-password\nshoalctl secret inspect db-password@2",
    ),
    ("secret rm", "shoalctl secret rm db-password\nshoalctl secret rm db-password@1"),
    ("config create", "shoalctl config create app ./app.conf"),
    ("config update", "shoalctl config update app ./app.conf"),
    ("config ls", "shoalctl config ls -q"),
    ("config inspect", "shoalctl config inspect app"),
    ("config rm", "shoalctl config rm app"),
    ("network ls", "shoalctl network ls --filter driver=bridge"),
    (
        "network connect",
        "shoalctl network connect back web.1\nshoalctl network connect --alias db --ip 10.0.1.5 back web.1",
    ),
    ("network disconnect", "shoalctl network disconnect back web.1"),
    ("network inspect", "shoalctl network inspect shop_back"),
    (
        "network verify",
        "shoalctl network verify\n\
         shoalctl network verify --all shop_back",
    ),
    (
        "network trace",
        "shoalctl network trace shop_web.1 db:5432\n\
         shoalctl network trace shop_web.1 h2:8080/tcp",
    ),
    ("network rm", "shoalctl network rm back"),
    ("volume inspect", "shoalctl volume inspect shop_data"),
    ("image ls", "shoalctl image ls"),
    ("image rm", "shoalctl image rm registry.lan/web:1"),
    ("logout", "shoalctl logout registry.lan:5000"),
    ("context create", "shoalctl context create --local\nshoalctl context create --local prod"),
    ("context inspect", "shoalctl context inspect prod"),
    ("context rm", "shoalctl context rm old\nshoalctl context rm --force prod"),
    ("context ls", "shoalctl context ls"),
    ("context use", "shoalctl context use prod"),
    ("context show", "shoalctl context show\nshoalctl context show --format {{.Identity}}"),
    ("user ls", "shoalctl user ls --filter role=deployer"),
    ("user inspect", "shoalctl user inspect\nshoalctl user inspect ci"),
    ("user rm", "shoalctl user rm ci"),
];
