"""What a deploy config is on Kubernetes: shape and numbers of each manifest."""

import json
import shlex

import pytest
import yaml
from rendered import CRDS, EVERYTHING, MIB, SECURITY, cluster, config_of, container, head, rendered, worker

from rowloom.deploy.config.config import parse
from rowloom.deploy.config.memory import memory
from rowloom.deploy.render.crds import check, load_crds
from rowloom.deploy.render.files import write
from rowloom.proto.errors import InvalidRequest

RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("what", EVERYTHING)
def test_every_manifest_is_of_the_shape_that_kuberay_documents_and_always_the_same(what):
    made = rendered(**what)
    manifests = [one for found in made.manifests.values() for one in found]
    assert check(manifests, load_crds([CRDS]))[:2] == ["RayCluster", "RayJob"]
    assert made.files == rendered(**what).files
    assert [one for name in made.manifests for one in yaml.safe_load_all(made.files[name])] == manifests
    for one in manifests:
        assert one["metadata"].get("namespace", "") == what.get("options", {}).get("namespace", "")


@pytest.mark.parametrize("what", EVERYTHING)
def test_no_pod_runs_as_root_or_with_more_than_it_needs(what):
    made = rendered(**what)
    submitter = made.manifests["up.yaml"][0]["spec"]["submitterPodTemplate"]
    for pod in (head(made)["template"], worker(made)["template"], submitter):
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == 1000
        assert context["fsGroup"] == context["runAsGroup"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert [c["securityContext"] for c in pod["spec"]["containers"]] == [RESTRICTED]


def test_a_shard_gets_a_pod_whose_memory_holds_its_rows_twice_and_ray():
    made = rendered()
    bound = memory(config_of()).bound_bytes
    shard = made.sizes.shard_bytes
    assert 2.3 * bound <= shard < 2.3 * bound + MIB
    amounts = container(worker(made))["resources"]
    assert amounts["requests"] == amounts["limits"]
    assert amounts["requests"] == {"cpu": "2", "memory": f"{shard // MIB + 512 + 128 + 1024}Mi"}
    params = worker(made)["rayStartParams"]
    assert params["memory"] == str(
        shard
    )  # of which a shard's bundle takes all, and Ray takes no more for others
    assert params["num-cpus"] == "1"
    assert made.fitted.config.ray.memory_per_shard == shard


def test_memory_that_was_given_is_what_is_asked_for():
    made = rendered(ray={"memory_per_shard": "8GiB", "num_cpus_per_shard": 1.5})
    assert made.sizes.shard_bytes == 8 * 2**30
    assert container(worker(made))["resources"]["requests"] == {"cpu": "3", "memory": f"{8192 + 1664}Mi"}
    assert worker(made)["rayStartParams"]["num-cpus"] == "2"


@pytest.mark.parametrize(
    ("options", "changes", "pods"),
    [
        ({}, {"shards": 4}, 5),
        ({"spare": 0}, {"shards": 4}, 4),
        ({"spare": 2, "shards_per_pod": 3}, {"shards": 4}, 4),
        ({}, {"shards": 2, "autoscale": {"max": 9, "target_qps_per_shard": 1}}, 10),
        ({"shards_per_pod": 4}, {"shards": 4, "ray": {"placement": "STRICT_PACK"}}, 2),
        ({}, {"shards": 4, "replicas": 1}, 9),
        ({"spare": 0, "shards_per_pod": 3}, {"shards": 4, "replicas": 1}, 3),
        ({"spare": 0, "shards_per_pod": 8}, {"shards": 1, "replicas": 1}, 2),
    ],
)
def test_there_are_as_many_workers_as_shards_may_be_and_some_spare_ones_and_nobody_changes_that(
    options, changes, pods
):
    group = worker(rendered(options, **changes))
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == pods
    assert cluster(rendered(options, **changes))["enableInTreeAutoscaling"] is False


def test_with_autoscaling_a_pod_holds_a_shard_of_the_fewest():
    made = rendered(shards=4, autoscale={"min": 2, "max": 8, "target_qps_per_shard": 1})
    assert made.sizes.shard_bytes == rendered(shards=2).sizes.shard_bytes


def test_shards_and_the_coordinator_have_seats_of_their_own_as_a_shell_hands_them_to_ray():
    made = rendered({"shards_per_pod": 2})
    seats = [shlex.split(group["rayStartParams"]["resources"]) for group in (head(made), worker(made))]
    assert [json.loads(one) for (one,) in seats] == [{"rowloom_coordinator": 1}, {"rowloom_shard": 2}]
    assert made.fitted.config.ray.resources == {"rowloom_shard": 1}
    assert made.fitted.config.ray.coordinator_resources == {"rowloom_coordinator": 1}
    assert head(made)["rayStartParams"]["num-cpus"] == "0"


def test_resources_that_the_config_names_are_kept():
    made = rendered(
        {"shards_per_pod": 3}, ray={"resources": {"ps": 2}, "coordinator_resources": {"cpu_node": 1}}
    )
    assert json.loads(*shlex.split(worker(made)["rayStartParams"]["resources"])) == {"ps": 6}
    assert json.loads(*shlex.split(head(made)["rayStartParams"]["resources"])) == {"cpu_node": 1}


def test_a_pod_that_ends_gets_the_grace_of_its_calls_and_what_stopping_takes():
    for grace, given in ((5, 30), (120, 135), (0.5, 30), (20.5, 36)):
        made = rendered(limits={"stop_grace_s": grace})
        assert worker(made)["template"]["spec"]["terminationGracePeriodSeconds"] == given


def test_secrets_are_files_of_a_secret_and_no_value_or_path_of_here_is_in_a_manifest():
    made = rendered(security=SECURITY)
    for group in (head(made), worker(made)):
        (volume,) = [v for v in group["template"]["spec"]["volumes"] if v["name"] == "security"]
        assert volume["secret"] == {"secretName": "ads-security", "defaultMode": 0o440}
        assert {"name": "security", "mountPath": "/etc/rowloom/security", "readOnly": True} in container(
            group
        )["volumeMounts"]
    inside = made.fitted.config.security
    assert (inside.key, inside.token) == (
        "/etc/rowloom/security/server.key",
        "/etc/rowloom/security/cluster.token",
    )
    assert not any("/s/" in text for text in made.files.values())
    assert made.secret.startswith("kubectl create secret generic ads-security --from-file=ca.pem=/s/ca.pem ")
    assert "--from-file=cluster.token=/s/cluster.token" in made.secret


def test_the_config_in_the_pods_is_the_same_cluster():
    for what in EVERYTHING:
        made = rendered(**what)
        text = made.manifests["config.yaml"][0]["data"]["deploy.yaml"]
        inside = parse(yaml.safe_load(text))
        assert inside == made.fitted.config
        assert text.startswith(f"# {inside.hash}\n")
        outside = config_of(**{k: v for k, v in what.items() if k != "options"})
        for same in (
            "name",
            "shards",
            "tables",
            "durability",
            "limits",
            "autoscale",
            "metrics",
            "log",
            "carrier",
        ):
            assert getattr(inside, same) == getattr(outside, same)
        assert inside.port == 7400


def test_the_job_is_another_one_when_the_config_is_and_waits_until_pods_see_it():
    first, second = rendered(), rendered(shards=3)
    names = [made.manifests["up.yaml"][0]["metadata"]["name"] for made in (first, second)]
    assert names[0] != names[1]
    for made in (first, second):
        spec = made.manifests["up.yaml"][0]["spec"]
        assert spec["entrypoint"] == f"bash /etc/rowloom/config/up.sh {made.fitted.config.hash}"
        assert spec["clusterSelector"] == {"ray.io/cluster": "ads"}
    scripts = {made.manifests["config.yaml"][0]["data"]["up.sh"] for made in (first, second)}
    assert len(scripts) == 1  # an older one in the pod must do as well


def test_names_stay_short_enough_for_what_kuberay_makes_of_them():
    made = rendered(name="a" + 39 * "b")
    for found in made.manifests.values():
        for one in found:
            assert len(one["metadata"]["name"]) <= 47  # of a RayJob, the shortest


def test_a_service_leads_to_the_coordinator_and_to_metrics_that_others_may_read():
    made = rendered(port=7500, metrics={"port": 9400, "host": "0.0.0.0"})
    spec = made.manifests["service.yaml"][0]["spec"]
    assert spec["selector"] == {"ray.io/cluster": "ads", "ray.io/node-type": "head"}
    assert {p["name"]: p["port"] for p in spec["ports"]} == {"rowloom": 7500, "rowloom-metrics": 9400}
    ports = {p["name"]: p["containerPort"] for p in container(head(made))["ports"]}
    assert ports["rowloom"] == 7500
    assert all(len(name) <= 15 for name in ports)
    for port in spec["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    quiet = rendered(metrics={"port": 9400})
    assert [p["name"] for p in quiet.manifests["service.yaml"][0]["spec"]["ports"]] == ["rowloom"]
    assert "metrics are read within each pod only: metrics.host is 127.0.0.1" in quiet.notes


def test_prometheus_is_told_whom_to_trust_and_what_to_show_by_the_names_of_secrets():
    options = {"scrape_config": True, "namespace": "ml"}
    metrics = {"port": 9400, "host": "0.0.0.0"}
    made = rendered(options, metrics=metrics, security=SECURITY | {"mutual": True})
    spec = made.manifests["scrape.yaml"][0]["spec"]
    assert spec["scheme"] == "HTTPS"
    (discovery,) = spec["httpSDConfigs"]
    assert discovery["url"] == "https://ads.ml.svc:9400/targets"
    for one in (spec, discovery):
        assert one["authorization"] == {
            "type": "Bearer",
            "credentials": {"name": "ads-metrics", "key": "token"},
        }
        assert one["tlsConfig"] == {
            "ca": {"secret": {"name": "ads-security", "key": "ca.pem"}},
            "cert": {"secret": {"name": "ads-metrics", "key": "client.pem"}},
            "keySecret": {"name": "ads-metrics", "key": "client.key"},
            "serverName": "ads.internal",
        }
    (told,) = [note for note in made.notes if "secret token prometheus" in note or "ads-metrics" in note]
    files = "--from-file=client.pem=client.pem --from-file=client.key=client.key --from-file=token=prometheus.token"
    assert f"kubectl create secret generic ads-metrics --namespace ml {files}" in told
    plain = rendered(options, metrics=metrics, security={"insecure": True})
    assert plain.manifests["scrape.yaml"][0]["spec"] == {
        "httpSDConfigs": [{"url": "http://ads.ml.svc:9400/targets"}],
        "scrapeInterval": "15s",
    }
    assert not [note for note in plain.notes if "ads-metrics" in note]
    (place,) = [note for note in rendered(metrics=metrics, security=SECURITY).notes if "/targets" in note]
    assert "https://ads:9400/targets" in place


def budgets_of(made) -> dict[str, int]:
    found = made.manifests.get("budgets.yaml", [])
    return {one["metadata"]["name"]: one["spec"]["minAvailable"] for one in found}


def test_without_logs_no_pod_may_be_evicted_and_with_logs_one_at_a_time():
    assert budgets_of(rendered(shards=3)) == {"ads-worker": 4, "ads-head": 1}
    kept = {"storage": "/x", "durability": "process", "shards": 3}
    assert budgets_of(rendered({"claim": "c"}, **kept)) == {"ads-worker": 3, "ads-head": 1}
    assert budgets_of(rendered({"claim": "c", "redis": "redis:6379"}, **kept)) == {"ads-worker": 3}


def test_storage_is_one_volume_for_all_pods():
    made = rendered(
        {"storage_class": "nfs", "storage_size": "1Ti"}, storage="/somewhere", durability="process"
    )
    spec = made.manifests["volume.yaml"][0]["spec"]
    assert spec["accessModes"] == ["ReadWriteMany"]
    assert spec["storageClassName"] == "nfs"
    assert spec["resources"]["requests"]["storage"] == "1Ti"
    claimed = rendered({"claim": "shared"}, storage="/somewhere", durability="process")
    assert "volume.yaml" not in claimed.manifests
    for one, name in ((made, "ads-storage"), (claimed, "shared")):
        for group in (head(one), worker(one)):
            volumes = {v["name"]: v for v in group["template"]["spec"]["volumes"]}
            assert volumes["storage"]["persistentVolumeClaim"] == {"claimName": name}
        assert one.fitted.config.storage == "/var/lib/rowloom/ads"  # so that a claim may hold several


def test_an_object_store_needs_no_volume_and_its_library_is_in_the_image():
    made = rendered({"service_account": "ads"}, storage="s3://bucket/ads")
    assert "storage" not in {v["name"] for v in worker(made)["template"]["spec"]["volumes"]}
    assert worker(made)["template"]["spec"]["serviceAccountName"] == "ads"
    assert '[ray]" s3fs' in made.files["Dockerfile"]
    assert "s3fs" not in rendered().files["Dockerfile"]


def test_versions_are_pinned_and_shared_memory_is_bounded():
    made = rendered({"image": "registry.example.com/rowloom:1"})
    assert f"FROM rayproject/ray:{cluster(made)['rayVersion']}-py3" in made.files["Dockerfile"]
    lines = made.files["constraints.txt"].split()
    assert any(line.startswith("numpy==") for line in lines)
    assert all("==" in line for line in lines)
    for group in (head(made), worker(made)):
        assert container(group)["image"] == "registry.example.com/rowloom:1"
        (shm,) = [v for v in group["template"]["spec"]["volumes"] if v["name"] == "shm"]
        assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "256Mi"}
        assert int(group["rayStartParams"]["object-store-memory"]) < 256 * MIB


def test_ray_asks_for_tokens_where_it_can_and_its_absence_is_said():
    assert cluster(rendered())["authOptions"] == {"mode": "token"}
    assert "authOptions" in cluster(rendered({"kuberay_version": "1.10", "ray_version": "2.52"}))
    # 1.5.0 does not know the field, and its server would drop it in silence.
    for old in ({"kuberay_version": "1.4"}, {"kuberay_version": "1.5"}, {"ray_version": "2.51.1"}):
        made = rendered(old)
        assert "authOptions" not in cluster(made)
        assert any("NetworkPolicy" in note for note in made.notes)


def test_a_redis_keeps_what_the_head_knows():
    made = rendered({"redis": "redis:6379", "redis_secret": "redis"})
    assert cluster(made)["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis:6379",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
    }
    env = {e["name"]: e["value"] for e in container(worker(made))["env"]}
    assert env["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"
    assert not any("--redis" in note for note in made.notes)
    assert any("all rows are lost" in note for note in rendered().notes)


def test_fewer_workers_than_before_are_not_written_by_accident(tmp_path):
    write(rendered(shards=4, metrics={"port": 9400, "host": "0.0.0.0"}), tmp_path / "k8s")
    before = {path.name: path.read_text() for path in (tmp_path / "k8s").iterdir()}
    with pytest.raises(
        InvalidRequest, match=r"has 5 worker pods, this config takes 4.*workersToDelete.*--fewer"
    ):
        write(rendered(shards=3), tmp_path / "k8s")
    assert {path.name: path.read_text() for path in (tmp_path / "k8s").iterdir()} == before
    write(rendered(shards=3), tmp_path / "k8s", fewer=True)
    write(rendered(shards=5), tmp_path / "k8s")


def test_a_file_that_is_none_any_more_is_removed(tmp_path):
    kept = {"storage": "/x", "durability": "process"}
    write(rendered({"storage_class": "nfs"}, **kept), tmp_path)
    assert (tmp_path / "volume.yaml").exists()
    (tmp_path / "mine.yaml").write_text("kind: NetworkPolicy\n")
    write(rendered({"claim": "c"}, **kept), tmp_path)
    assert not (tmp_path / "volume.yaml").exists()
    assert (tmp_path / "mine.yaml").exists()
