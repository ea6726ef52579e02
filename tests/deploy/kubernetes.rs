//! The manifests of both overlays, as they are applied.

use super::*;

/// The objects of an overlay.
struct Overlay {
    name: &'static str,
    objects: Vec<Value>,
}

/// A workload: its name, its object, its pods' specification and labels.
struct Workload<'a> {
    name: &'a str,
    kind: &'a str,
    object: &'a Value,
    pod: &'a Value,
    labels: &'a Value,
}

impl Overlay {
    fn all() -> impl Iterator<Item = Self> {
        OVERLAYS.into_iter().map(|name| Self {
            name,
            objects: yaml(&read(&format!("deploy/kubernetes/rendered/{name}.yaml"))),
        })
    }

    fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |o| o["kind"] == kind)
    }

    fn get<'a>(&'a self, kind: &'a str, name: &str) -> &'a Value {
        self.of(kind)
            .find(|o| o["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("{}: no {kind} {name}", self.name))
    }

    fn workloads(&self) -> Vec<Workload<'_>> {
        let workloads = self.objects.iter().filter(|o| !o["spec"]["template"]["spec"].is_null());
        workloads
            .map(|object| Workload {
                name: object["metadata"]["name"].as_str().unwrap(),
                kind: object["kind"].as_str().unwrap(),
                object,
                pod: &object["spec"]["template"]["spec"],
                labels: &object["spec"]["template"]["metadata"]["labels"],
            })
            .collect()
    }

    fn workload(&self, name: &str) -> Workload<'_> {
        self.workloads().into_iter().find(|w| w.name == name).unwrap()
    }

    /// The network policies that hold for pods with these labels, in one direction (`Ingress`, `Egress`).
    fn policies(&self, labels: &Value, direction: &str) -> Vec<&Value> {
        let holds = |policy: &&Value| {
            selects(&policy["spec"]["podSelector"], labels)
                && texts(&policy["spec"]["policyTypes"]).contains(&direction)
        };
        self.of("NetworkPolicy").filter(holds).collect()
    }

    /// Each peer and port that pods with these labels may reach (`to`) or be reached by (`from`).
    fn allowed(&self, labels: &Value, direction: &str) -> Vec<(Value, u64)> {
        let (rules, peers) = if direction == "Egress" { ("egress", "to") } else { ("ingress", "from") };
        let mut all = Vec::new();
        for policy in self.policies(labels, direction) {
            for rule in policy["spec"][rules].as_array().into_iter().flatten() {
                let peers = rule[peers].as_array().unwrap_or_else(|| panic!("{policy}: anyone"));
                let ports = rule["ports"].as_array().unwrap_or_else(|| panic!("{policy}: any port"));
                for peer in peers {
                    all.extend(ports.iter().map(|port| (peer.clone(), port["port"].as_u64().unwrap())));
                }
            }
        }
        all
    }
}

impl Workload<'_> {
    fn containers(&self) -> impl Iterator<Item = &Value> {
        ["initContainers", "containers"]
            .into_iter()
            .flat_map(|k| self.pod[k].as_array().into_iter().flatten())
    }

    fn main(&self) -> &Value {
        &self.pod["containers"][0]
    }
}

/// Whether a selector of labels matches.
fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = object(&selector["matchLabels"]).all(|(k, v)| labels[k] == *v);
    let within = selector["matchExpressions"].as_array().into_iter().flatten().all(|expression| {
        assert_eq!(expression["operator"], "In");
        expression["values"].as_array().unwrap().contains(&labels[expression["key"].as_str().unwrap()])
    });
    equal && within
}

/// Bytes of `20Gi`.
fn bytes(quantity: &Value) -> u64 {
    let text = quantity.as_str().unwrap();
    let (number, unit) = text.split_at(text.len() - 2);
    let power = ["Ki", "Mi", "Gi", "Ti"].iter().position(|u| *u == unit).unwrap_or_else(|| panic!("{text}"));
    number.parse::<u64>().unwrap() << (10 * (power + 1))
}

#[test]
fn every_pod_is_confined() {
    for overlay in Overlay::all() {
        assert_eq!(
            overlay.get("Namespace", "bodycam")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
            "restricted"
        );
        for workload in overlay.workloads() {
            let who = format!("{}: {}", overlay.name, workload.name);
            let pod = &workload.pod["securityContext"];
            assert_eq!(pod["runAsNonRoot"], true, "{who}");
            assert_eq!(pod["seccompProfile"]["type"], "RuntimeDefault", "{who}");
            assert_eq!(
                pod["fsGroupChangePolicy"], "OnRootMismatch",
                "{who}: keys on volumes must not get group rights"
            );
            assert_eq!(workload.pod["automountServiceAccountToken"], false, "{who}");
            for key in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(workload.pod.get(key).is_none(), "{who}: {key}");
            }
            for container in workload.containers() {
                let who = format!("{who}/{}", container["name"]);
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{who}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{who}");
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{who}");
                assert!(security["runAsUser"].as_u64().unwrap() > 0, "{who}");
                for limit in ["cpu", "memory", "ephemeral-storage"] {
                    assert!(
                        container["resources"]["requests"][limit].is_string(),
                        "{who} requests no {limit}"
                    );
                    assert!(
                        container["resources"]["limits"][limit].is_string(),
                        "{who} has no limit of {limit}"
                    );
                }
                let (_, tag) = container["image"]
                    .as_str()
                    .unwrap()
                    .rsplit_once(':')
                    .unwrap_or_else(|| panic!("{who}: no tag"));
                assert!(tag.starts_with(|c: char| c.is_ascii_digit()), "{who}: {tag}");
            }
            for volume in workload.pod["volumes"].as_array().into_iter().flatten() {
                assert!(volume.get("hostPath").is_none(), "{who}: {volume}");
            }
        }
        for (name, image, args) in ROLES {
            let workload = overlay.workload(name);
            let (at, tag) = workload.main()["image"].as_str().unwrap().rsplit_once(':').unwrap();
            assert_eq!(at.rsplit('/').next(), Some(image), "{name}");
            assert_eq!(tag, env!("CARGO_PKG_VERSION"), "{name}");
            assert_eq!(texts(&workload.main()["args"]), args, "{name}");
        }
    }
}

#[test]
fn every_part_is_probed_where_it_listens() {
    for overlay in Overlay::all() {
        for (role, command, setting) in [
            ("bodycam-gateway", "gateway", "listen"),
            ("bodycam-recorder", "recorder", "recorder_listen"),
            ("bodycam-detection", "detect", "detect_listen"),
        ] {
            let workload = overlay.workload(role);
            let container = workload.main();
            let config: toml::Table = toml::from_str(overlay.config()).unwrap();
            let at: std::net::SocketAddr = config["admin"][setting].as_str().unwrap().parse().unwrap();
            assert!(at.ip().is_unspecified(), "{command}: the kubelet asks the address of the pod");
            let port = container["ports"].as_array().unwrap().iter().find(|p| p["name"] == "admin").unwrap();
            assert_eq!(port["containerPort"], at.port(), "{command}");
            for (probe, path) in
                [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
            {
                assert_eq!(
                    container[probe]["httpGet"],
                    json!({"path": path, "port": "admin"}),
                    "{command} {probe}"
                );
            }
            let annotations = &workload.object["spec"]["template"]["metadata"]["annotations"];
            assert_eq!(annotations["prometheus.io/port"], at.port().to_string(), "{command}");
        }
    }
}

#[test]
fn a_spool_and_a_key_outlive_their_pod() {
    for overlay in Overlay::all() {
        let config: toml::Table = toml::from_str(overlay.config()).unwrap();
        for (role, path) in [
            ("bodycam-gateway", config["spool"]["dir"].as_str()),
            ("bodycam-recorder", config["recorder"]["key"].as_str()),
        ] {
            let workload = overlay.workload(role);
            assert_eq!(workload.kind, "StatefulSet");
            assert_eq!(
                workload.object["spec"]["persistentVolumeClaimRetentionPolicy"],
                json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
                "{role}"
            );
            let mounts = workload.main()["volumeMounts"].as_array().unwrap();
            let holds =
                |mount: &&Value| Path::new(path.unwrap()).starts_with(mount["mountPath"].as_str().unwrap());
            let mount =
                mounts.iter().find(holds).unwrap_or_else(|| panic!("{role}: {path:?} is on no volume"));
            let claims = workload.object["spec"]["volumeClaimTemplates"].as_array().unwrap();
            let claim = claims.iter().find(|c| c["metadata"]["name"] == mount["name"]);
            let claim =
                claim.unwrap_or_else(|| panic!("{role}: {path:?} is on {mount}, which no claim keeps"));
            assert_eq!(
                claim["spec"]["accessModes"],
                json!(["ReadWriteOncePod"]),
                "{role}: never two pods on one"
            );
            if role == "bodycam-gateway" {
                let most = config["spool"]["max_bytes"].as_integer().unwrap();
                let room = bytes(&claim["spec"]["resources"]["requests"]["storage"]);
                // The ledger's reserve of 64 MiB, a segment a lane, and what file systems keep for themselves.
                assert!(
                    room >= u64::try_from(most).unwrap() / 100 * 115,
                    "{}: {room} for {most}",
                    overlay.name
                );
            }
        }
    }
}

#[test]
fn nothing_is_killed_while_it_drains() {
    for overlay in Overlay::all() {
        let gateway = overlay.workload("bodycam-gateway");
        let grace = gateway.pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        let before = gateway.main()["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
        let kafka = overlay.get("ConfigMap", "bodycam-kafka")["data"]["BODYCAM__KAFKA__DRAIN_SECONDS"]
            .as_str()
            .unwrap();
        let drain = place::drain(overlay.config()) + kafka.parse::<u64>().unwrap();
        assert!(grace >= before + drain + 10, "{}: {grace} s for {before} + {drain}", overlay.name);
        for workload in overlay.workloads().iter().filter(|w| ROLES.iter().any(|(role, ..)| *role == w.name))
        {
            let budgets: Vec<_> = overlay
                .of("PodDisruptionBudget")
                .filter(|b| selects(&b["spec"]["selector"], workload.labels))
                .collect();
            assert_eq!(budgets.len(), 1, "{}: {}", overlay.name, workload.name);
            assert_eq!(budgets[0]["spec"]["maxUnavailable"], 1, "{}", workload.name);
            assert!(selects(&workload.object["spec"]["selector"], workload.labels), "{}", workload.name);
        }
        assert!(
            gateway.object["spec"]["replicas"].as_u64().unwrap() >= 2,
            "one takes over while another drains"
        );
        let spread = gateway.pod["topologySpreadConstraints"].as_array().unwrap();
        assert!(spread.iter().any(|s| s["topologyKey"] == "kubernetes.io/hostname"));
    }
}

#[test]
fn services_lead_to_ports_that_are_listened_on() {
    for overlay in Overlay::all() {
        for service in overlay.of("Service") {
            let name = &service["metadata"]["name"];
            let behind: Vec<_> = overlay
                .workloads()
                .into_iter()
                .filter(|w| object(&service["spec"]["selector"]).all(|(k, v)| w.labels[k] == *v))
                .collect();
            assert_eq!(behind.len(), 1, "{}: {name}", overlay.name);
            for port in service["spec"]["ports"].as_array().unwrap() {
                let ports = behind[0].main()["ports"].as_array().unwrap();
                let found = ports.iter().find(|p| p["name"] == port["targetPort"]);
                let found = found.unwrap_or_else(|| panic!("{name}: {} is no port", port["targetPort"]));
                assert_eq!(found["containerPort"], port["port"], "{name}");
            }
        }
        let config: toml::Table = toml::from_str(overlay.config()).unwrap();
        let gateway = overlay.get("Service", "bodycam-gateway");
        for (name, section) in [("postgres", "postgres"), ("egress", "http")] {
            let listen: std::net::SocketAddr = config[section]["listen"].as_str().unwrap().parse().unwrap();
            let ports = gateway["spec"]["ports"].as_array().unwrap();
            assert_eq!(ports.iter().find(|p| p["name"] == name).unwrap()["port"], listen.port());
            assert!(
                config[section]["tls"]["cert"].is_str(),
                "{section}: tokens do not cross the network in clear"
            );
        }
        assert_eq!(gateway["spec"]["sessionAffinity"], "ClientIP", "a cancel request must find its gateway");
    }
}

#[test]
fn agents_reach_the_gateways_and_nothing_else() {
    let agents = |peer: &Value| peer["namespaceSelector"]["matchLabels"]["bodycam.dev/agents"] == "true";
    for overlay in Overlay::all() {
        for workload in overlay.workloads() {
            let who = format!("{}: {}", overlay.name, workload.name);
            for direction in ["Ingress", "Egress"] {
                let denied = overlay
                    .policies(workload.labels, direction)
                    .iter()
                    .any(|p| p["metadata"]["name"] == "deny-all");
                assert!(denied, "{who}: {direction} is open");
            }
            let from = overlay.allowed(workload.labels, "Ingress");
            let by_agents: Vec<u64> =
                from.iter().filter(|(peer, _)| agents(peer)).map(|(_, port)| *port).collect();
            let wanted: &[u64] = if workload.name == "bodycam-gateway" { &[6432, 3128] } else { &[] };
            assert_eq!(by_agents, wanted, "{who}");
            for (peer, port) in &from {
                assert!(peer.get("ipBlock").is_none(), "{who}: anyone at {peer} reaches {port}");
                if [9464, 9465, 9466].contains(port) {
                    let metrics = &peer["namespaceSelector"]["matchLabels"]["bodycam.dev/metrics"];
                    assert_eq!(metrics, "true", "{who}: {peer} reaches the admin listener");
                }
            }
        }
        // Who needs what, and no more: Kafka 9093, S3 443 or 8333, databases 5432, names 53, the internet 80 and 443.
        let s3 = if overlay.name == "dev" { 8333 } else { 443 };
        for (role, wanted) in [
            ("bodycam-gateway", BTreeSet::from([53, 80, 443, 5432, 9093])),
            ("bodycam-recorder", BTreeSet::from([53, 9093, s3])),
            ("bodycam-detection", BTreeSet::from([53, 9093, s3])),
        ] {
            let to = overlay.allowed(overlay.workload(role).labels, "Egress");
            assert_eq!(
                to.iter().map(|(_, port)| *port).collect::<BTreeSet<_>>(),
                wanted,
                "{}: {role}",
                overlay.name
            );
            for (peer, port) in to.iter().filter(|(peer, _)| peer["ipBlock"]["cidr"] == "0.0.0.0/0") {
                assert_eq!(role, "bodycam-gateway", "{peer} {port}");
                let except = texts(&peer["ipBlock"]["except"]);
                assert!(
                    ["10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"]
                        .iter()
                        .all(|r| except.contains(r))
                );
            }
        }
    }
    // The other side of it: what is put into the namespaces of agents and of databases.
    let policy = yaml(&read("deploy/kubernetes/agents/network.yaml")).remove(0);
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    let egress = policy["spec"]["egress"].as_array().unwrap();
    let to: Vec<&Value> = egress.iter().map(|rule| &rule["to"][0]["podSelector"]["matchLabels"]).collect();
    assert_eq!(to, [&json!({"app.kubernetes.io/name": "bodycam-gateway"}), &json!({"k8s-app": "kube-dns"})]);
    let policy = yaml(&read("deploy/kubernetes/targets/network.yaml")).remove(0);
    assert_eq!(
        policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"],
        "bodycam-gateway"
    );
}

#[test]
fn a_cluster_for_queries_keeps_its_rows_in_memory_and_to_itself() {
    let overlay = Overlay::all().find(|overlay| overlay.name == "cluster").unwrap();
    let (scheduler, executor) = (overlay.workload("bodycam-scheduler"), overlay.workload("bodycam-executor"));
    let settings = overlay.get("ConfigMap", "bodycam-cluster")["data"].clone();
    assert_eq!(
        settings["BODYCAM__CLUSTER__TLS__NAME"], "bodycam-cluster",
        "what deploy/secrets.sh certifies"
    );
    let work_dir = &settings["BODYCAM__CLUSTER__WORK_DIR"];
    let mounts = executor.main()["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["mountPath"] == *work_dir).unwrap();
    let volumes = executor.pod["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
    assert_eq!(volume["emptyDir"]["medium"], "Memory", "rows on their way are clear text");
    // The tmpfs counts as memory of the container.
    let (rows, limit) = (&volume["emptyDir"]["sizeLimit"], &executor.main()["resources"]["limits"]["memory"]);
    let memory: u64 = settings["BODYCAM__CLUSTER__MEMORY_MIB"].as_str().unwrap().parse().unwrap();
    assert!(bytes(limit) >= bytes(rows) + (memory << 20) + (512 << 20));
    for (workload, port, wanted) in [
        (&scheduler, 50050, BTreeSet::from([53])),
        (&executor, 50051, BTreeSet::from([53, 443, 50050, 50051])),
    ] {
        let to = overlay.allowed(workload.labels, "Egress");
        assert_eq!(to.iter().map(|(_, port)| *port).collect::<BTreeSet<_>>(), wanted, "{}", workload.name);
        for (peer, from) in overlay.allowed(workload.labels, "Ingress") {
            assert_eq!(from, port, "{}", workload.name);
            assert!(peer["podSelector"]["matchLabels"].is_object(), "{}: {peer}", workload.name);
        }
        let secrets: Vec<_> = workload.pod["volumes"].as_array().unwrap().iter().collect();
        let has = |name: &str| secrets.iter().any(|volume| volume["secret"]["secretName"] == name);
        assert!(has("bodycam-cluster-tls"), "{}", workload.name);
        assert_eq!(has("bodycam-tenant"), workload.name == "bodycam-executor", "the scheduler opens nothing");
    }
}

#[test]
fn every_part_finds_its_configuration_and_secrets() {
    let place = Place::with_secrets();
    place.state_of_tokens();
    let known = secrets(&read("deploy/kubernetes/secrets.sh"));
    for overlay in Overlay::all() {
        let config_map = |name: &str| overlay.get("ConfigMap", name)["data"].clone();
        for workload in overlay.workloads() {
            let who = format!("{}: {}", overlay.name, workload.name);
            let place = place.clean();
            let container = workload.main();
            let mut environment = Vec::new();
            for from in container["envFrom"].as_array().into_iter().flatten() {
                let map = config_map(from["configMapRef"]["name"].as_str().unwrap());
                environment.extend(object(&map).map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())));
            }
            for variable in container["env"].as_array().into_iter().flatten() {
                let named = variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name";
                let value = if named {
                    format!("{}-0", workload.name)
                } else {
                    variable["value"].as_str().unwrap().to_owned()
                };
                environment.push((variable["name"].as_str().unwrap().to_owned(), value));
            }
            for mount in container["volumeMounts"].as_array().unwrap() {
                let at = mount["mountPath"].as_str().unwrap();
                let volume =
                    workload.pod["volumes"].as_array().unwrap().iter().find(|v| v["name"] == mount["name"]);
                let Some(volume) = volume else {
                    place.make(at);
                    continue;
                };
                if let Some(name) = volume["configMap"]["name"].as_str() {
                    let map = config_map(name);
                    let only = mount["subPath"].as_str();
                    for (file, text) in object(&map).filter(|(file, _)| only.is_none_or(|o| o == *file)) {
                        let at = if only.is_some() { at.to_owned() } else { format!("{at}/{file}") };
                        place.write(&at, text.as_str().unwrap().as_bytes());
                    }
                } else if let Some(name) = volume["secret"]["secretName"].as_str() {
                    let keys = known
                        .get(name)
                        .unwrap_or_else(|| panic!("{who}: deploy/kubernetes/secrets.sh makes no {name}"));
                    match mount["subPathExpr"].as_str() {
                        Some(expression) => {
                            assert_eq!(expression, "$(BODYCAM__GATEWAY__PRODUCER)", "{who}");
                            place.put(at, &place.secrets().join(&keys[&format!("{}-0", workload.name)]));
                        }
                        None => keys.iter().for_each(|(key, file)| {
                            place.put(&format!("{at}/{key}"), &place.secrets().join(file))
                        }),
                    }
                } else {
                    place.make(at);
                }
            }
            match ROLES.iter().find(|(role, ..)| *role == workload.name) {
                Some((_, _, args)) => place.check(&who, args[0], settings(environment)),
                // The scheduler has no tenant key; `config check` wants the place where one would be made.
                None if texts(&container["args"]).first() == Some(&"cluster") => {
                    place.make("/run/secrets/bodycam-tenant");
                    place.check(&who, "cluster", settings(environment));
                }
                // Others' programs: what their scripts and settings name is mounted.
                None => place.has(&who, container),
            }
        }
        // Each gateway has its password, and rights where this overlay makes them.
        let gateways = overlay.workload("bodycam-gateway").object["spec"]["replicas"].as_u64().unwrap();
        for n in 0..gateways {
            assert!(
                known["bodycam-kafka-gateways"].contains_key(&format!("bodycam-gateway-{n}")),
                "{}",
                overlay.name
            );
            for job in overlay.of("Job") {
                let users = job.to_string();
                assert!(
                    users.contains(&format!("bodycam-gateway-{n}")),
                    "{}: gateway {n} has no rights",
                    overlay.name
                );
            }
        }
    }
}

impl Overlay {
    /// The configuration file of the parts.
    fn config(&self) -> &str {
        self.get("ConfigMap", "bodycam-config")["data"]["bodycam.toml"].as_str().unwrap()
    }
}

/// The Secrets that the script prints: name, key, file.
fn secrets(script: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let lines = script.lines().filter_map(|line| line.strip_prefix("secret "));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap().to_owned();
            let pairs = words.map(|pair| pair.split_once('=').unwrap());
            (name, pairs.map(|(key, file)| (key.to_owned(), file.to_owned())).collect())
        })
        .collect()
}
