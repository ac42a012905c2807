// The page: a form, the choice that it stands for, and what the service says about it.
// The service alone knows the rules; the page shows what it answers at the fields.

import { makeCertificate, possible } from "./certificate.js";

const $ = (id) => document.getElementById(id);
const value = (id) => $(id).value.trim();
const checked = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const list = (text) => text.split(/[\s,]+/).filter(Boolean);

let releases = [];
let current; // the last answer of the service, for the choice now in the form
let asked = 0;

// fields says which field of the form a problem of the choice belongs to; the first that
// matches.
const fields = [
  [/^architecture$/, "architecture"], [/^type$/, "type"], [/^channel$/, "channel"], [/^version$/, "version"],
  [/^seeds\.install\.target\.bus/, "bus"], [/^seeds\.install\.target\.id/, "disk-id"],
  [/^seeds\.install\.target\.min_size/, "min-size"], [/^seeds\.install\.target\.max_size/, "max-size"],
  [/^seeds\.install\.target\.sort_order/, "order"], [/^seeds\.install\.security/, "trust"], [/^seeds\.install/, "mode-install"],
  [/^seeds\.network\.interfaces\[0\]\.(hwaddr|name)/, "hwaddr"], [/^seeds\.network\.interfaces\[0\]\.addresses/, "address"],
  [/^seeds\.network\.interfaces\[0\]\.routes/, "gateway"], [/^seeds\.network\.dns\.nameservers/, "nameservers"],
  [/^seeds\.network\.dns/, "hostname"], [/^seeds\.network\.time/, "timezone"],
  [/^seeds\.provider/, "server"], [/certificates/, "certificate"], [/^seeds\.applications/, "offline"], [/^offline$/, "offline"],
];

const fieldOf = (path) => fields.find(([form]) => form.test(path))?.[1];
const labelOf = (id) => document.querySelector(`label[for=${id}]`).textContent;

const applicationNames = () => [...document.querySelectorAll("#applications input:checked")].map((i) => i.value);

// withoutEmpty leaves out what was not filled in.
const withoutEmpty = (object) =>
  Object.fromEntries(Object.entries(object).filter(([, v]) => v !== "" && v !== false && v !== undefined && v?.length !== 0));

function installSeed() {
  const target = withoutEmpty({
    bus: value("bus"), id: value("disk-id"), min_size: value("min-size"), max_size: value("max-size"), sort_order: value("order"),
  });
  return withoutEmpty({
    force_install: $("force").checked,
    force_reboot: $("reboot").checked,
    security: value("trust") ? { [value("trust")]: true } : undefined,
    target: Object.keys(target).length ? target : undefined,
  });
}

function networkSeed() {
  const seed = {};
  const servers = checked("network") === "static" ? list(value("nameservers")) : [];
  if (value("hostname") || servers.length) {
    seed.dns = withoutEmpty({ hostname: value("hostname"), nameservers: servers });
  }
  if (value("timezone")) seed.time = { timezone: value("timezone") };
  if (checked("network") === "static") {
    const gateway = value("gateway");
    seed.interfaces = [withoutEmpty({
      name: "lan",
      hwaddr: value("hwaddr"),
      addresses: [value("address")],
      routes: gateway ? [{ to: gateway.includes(":") ? "::/0" : "0.0.0.0/0", via: gateway }] : [],
    })];
  }
  return Object.keys(seed).length ? seed : undefined;
}

// build is the choice that the form stands for.
function build() {
  const seeds = {};
  const names = applicationNames();
  const certificate = value("certificate") ? value("certificate") + "\n" : "";
  if (checked("mode") === "install") seeds.install = installSeed();
  if (names.length) seeds.applications = { applications: names.map((name) => ({ name })) };
  for (const manager of ["operations-center", "migration-manager"]) {
    if (names.includes(manager) && certificate) seeds[manager] = { trusted_client_certificates: [certificate] };
  }
  if (!seeds["operations-center"] && !seeds["migration-manager"]) {
    const certificates = certificate ? [{ name: "admin", type: "client", certificate }] : [];
    seeds.incus = withoutEmpty({
      apply_defaults: $("defaults").checked,
      preseed: certificates.length ? { certificates } : undefined,
    });
  }
  const network = networkSeed();
  if (network) seeds.network = network;
  if (value("server")) seeds.provider = { name: "images", config: { server_url: value("server") } };
  if (value("channel") && value("channel") !== "stable") {
    seeds.update = { auto_reboot: false, channel: value("channel"), check_frequency: "" };
  }
  return withoutEmpty({
    architecture: value("architecture"), type: value("type"), channel: value("channel"), version: value("version"),
    offline: $("offline").checked, seeds,
  });
}

// own are the problems that only a person's page has: the API allows images that nobody can
// log in to, and nodes that do not know yet where their applications are.
function own() {
  const problems = [];
  if (applicationNames().length && !$("offline").checked && !value("server")) {
    problems.push({ path: "seeds.provider", text: "the node needs it to fetch its applications: give the address, or have a second medium made" });
  }
  if (!value("certificate")) problems.push({ path: "certificates", text: "without a certificate nobody can log in: paste one, or make one" });
  return problems;
}

async function call(path, choice) {
  const answer = await fetch(path, choice && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(choice) });
  const text = await answer.json();
  if (text.type === "error") throw Object.assign(new Error(text.error), { problems: text.metadata?.problems ?? [] });
  return text.metadata;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function element(tag, text, attributes = {}) {
  const e = document.createElement(tag);
  e.textContent = text;
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
}

// mark shows each problem at its field, and all of them in a list of links.
function mark(problems) {
  document.querySelectorAll("[aria-invalid]").forEach((e) => {
    e.removeAttribute("aria-invalid");
    e.removeAttribute("aria-describedby");
  });
  document.querySelectorAll(".error").forEach((e) => e.remove());
  const items = problems.map((p) => {
    const id = fieldOf(p.path);
    const item = element("li", "");
    if (!id) {
      item.textContent = p.path ? `${p.path}: ${p.text}` : p.text;
      return item;
    }
    const field = $(id);
    const link = element("a", `${labelOf(id)}: ${p.text}`, { href: "#" + id });
    link.addEventListener("click", (event) => {
      event.preventDefault();
      field.focus();
    });
    item.append(link);
    if (!field.hasAttribute("aria-invalid")) {
      field.setAttribute("aria-invalid", "true");
      field.setAttribute("aria-describedby", id + "-error");
      field.parentElement.append(element("span", p.text, { id: id + "-error", class: "error" }));
    }
    return item;
  });
  $("problem-list").replaceChildren(...items);
  $("problems").hidden = items.length === 0;
}

function show(choice) {
  const rows = [
    ["Release", `${current.version} (${choice.version ? "this one" : "newest of " + choice.channel})`],
    ["Image", `${current.file}, ${choice.architecture}`],
    ["Purpose", choice.seeds.install ? "installs" + (choice.seeds.install.force_install ? ", erases a disk in use" : "") : "runs from the medium"],
    ["Applications", applicationNames().join(", ") || "none"],
    ["Releases from", choice.seeds.provider?.config.server_url ?? "nowhere"],
    ["Network", checked("network") === "static" ? value("address") : "automatic"],
  ];
  $("summary").replaceChildren(...rows.flatMap(([k, v]) => [element("dt", k), element("dd", v)]));
  $("files").replaceChildren(...current.files.map((f) => {
    const details = element("details", "", { open: "" });
    details.append(element("summary", f.name), element("pre", f.content, { tabindex: "0" }));
    return details;
  }));
  $("link").value = current.link ? new URL(current.link, location.href).href : "";
  $("lasting").hidden = !current.link;
  $("no-link").textContent = current.link ? "" : withoutLink(current.secrets);
}

// withoutLink says why a choice has no lasting link.
function withoutLink(secrets) {
  const names = secrets.map((path) => {
    const id = fieldOf(path);
    return id ? `${labelOf(id)} (${path})` : path;
  });
  const why = names.length ? `a secret may be in ${names.join(", ")}` : "it is too long for one";
  return `There is no lasting link, and the address of this page does not keep the choice: ${why}.`;
}

const toFragment = (text) => {
  let bytes = "";
  for (const b of new TextEncoder().encode(text)) bytes += String.fromCharCode(b);
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
};

const fromFragment = (text) => {
  const bytes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes, (c) => c.charCodeAt(0)));
};

// keep writes a choice into the page's address, for a bookmark, or nothing. The fragment is
// never sent, but histories and bookmarks hold it: only what may be in a lasting link goes there.
function keep(choice) {
  const fragment = choice ? "#" + toFragment(JSON.stringify(choice)) : "";
  history.replaceState(null, "", location.pathname + location.search + fragment);
}

// refresh asks the service about the choice.
async function refresh() {
  const turn = ++asked;
  const choice = build();
  let problems = own();
  let answer;
  try {
    answer = await call("/1.0/choices", choice);
  } catch (error) {
    if (error.problems) problems = [...problems, ...(error.problems.length ? error.problems : [{ path: "", text: error.message }])];
    else notice("The service does not answer: " + error.message);
  }
  if (turn !== asked) return; // a newer question is under way
  current = answer;
  mark(problems);
  const ready = Boolean(answer) && problems.length === 0;
  $("ready").hidden = !ready;
  $("summary").hidden = $("holds").hidden = !answer;
  $("no-link").hidden = !answer || Boolean(answer.link);
  if (answer) show(choice);
  keep(answer?.link ? choice : undefined);
  document.body.dataset.state = ready ? "ready" : "incomplete";
}

let timer;
function later() {
  document.body.dataset.state = "asking";
  notice("");
  asked++;
  clearTimeout(timer);
  timer = setTimeout(refresh, 250);
}

function options(id, entries, keep) {
  const select = $(id);
  const was = keep ?? select.value;
  select.replaceChildren(...entries.map(([v, text]) => element("option", text, { value: v })));
  if (entries.some(([v]) => v === was)) select.value = was;
}

// offer fills in what the releases have for the architecture, image and channel.
function offer() {
  const architecture = value("architecture");
  const fits = releases.filter((r) => r.architectures[architecture]?.types.includes(value("type")));
  const of = fits.filter((r) => r.channels.includes(value("channel")));
  options("version", [["", "newest"], ...of.map((r) => [r.version, r.version])]);
  const release = of.find((r) => r.version === value("version")) ?? of[0];
  const names = release?.architectures[architecture].applications ?? [];
  const was = $("applications").dataset.offered ? applicationNames() : ["incus"];
  $("applications").dataset.offered = "yes";
  $("applications").replaceChildren(...names.map((n) => {
    const row = element("p", "", { class: "check" });
    const box = element("input", "", { type: "checkbox", id: "app-" + n, value: n });
    box.checked = was.includes(n);
    row.append(box, element("label", n, { for: "app-" + n }));
    return row;
  }));
}

function layout() {
  const cd = value("type") === "iso";
  $("mode-run").disabled = cd;
  if (cd) $("mode-install").checked = true;
  $("install").hidden = checked("mode") !== "install";
  $("static").hidden = checked("network") !== "static";
}

// fill puts a choice into the form, as far as the form knows it.
function fill(choice) {
  const seeds = choice.seeds ?? {};
  const target = seeds.install?.target ?? {};
  const set = (id, v) => { if (v !== undefined) $(id).value = v; };
  set("architecture", choice.architecture);
  set("type", choice.type);
  set("channel", choice.channel);
  $(seeds.install ? "mode-install" : "mode-run").checked = true;
  set("bus", target.bus);
  set("disk-id", target.id);
  set("min-size", target.min_size);
  set("max-size", target.max_size);
  set("order", target.sort_order);
  $("force").checked = Boolean(seeds.install?.force_install);
  $("reboot").checked = Boolean(seeds.install?.force_reboot);
  set("trust", Object.keys(seeds.install?.security ?? {})[0]);
  const card = seeds.network?.interfaces?.[0];
  $(card ? "network-static" : "network-dhcp").checked = true;
  set("hwaddr", card?.hwaddr);
  set("address", card?.addresses?.[0]);
  set("gateway", card?.routes?.[0]?.via);
  set("nameservers", seeds.network?.dns?.nameservers?.join(", "));
  set("hostname", seeds.network?.dns?.hostname);
  set("timezone", seeds.network?.time?.timezone);
  $("defaults").checked = seeds.incus ? Boolean(seeds.incus.apply_defaults) : true;
  $("offline").checked = Boolean(choice.offline);
  $("server").value = seeds.provider?.config?.server_url ?? "";
  set("certificate", seeds.incus?.preseed?.certificates?.[0]?.certificate
    ?? seeds["operations-center"]?.trusted_client_certificates?.[0] ?? seeds["migration-manager"]?.trusted_client_certificates?.[0]);
  offer();
  set("version", choice.version ?? "");
  offer();
  const names = (seeds.applications?.applications ?? []).map((a) => a.name);
  document.querySelectorAll("#applications input").forEach((i) => { i.checked = names.includes(i.value); });
}

function saveAs(id, text) {
  const link = $(id);
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  link.hidden = false;
}

async function make() {
  $("make").disabled = true;
  try {
    const made = await makeCertificate();
    $("certificate").value = made.certificate;
    saveAs("save-crt", made.certificate);
    saveAs("save-key", made.key);
    $("made").textContent = "Made. Save both files now: the key is nowhere else, and without it you cannot log in.";
    later();
  } catch (error) {
    $("made").textContent = "This browser could not make a certificate: " + error.message;
  }
  $("make").disabled = false;
}

// go begins a download without leaving the page.
function go(path) {
  const link = element("a", "", { href: path, download: "" });
  document.body.append(link);
  link.click();
  link.remove();
}

async function download() {
  $("download").disabled = true;
  $("state").textContent = "Asking for the image...";
  try {
    const made = await call("/1.0/images", build());
    const ending = current.file.slice(current.file.lastIndexOf("."));
    go(made.image + (value("form-of-file") === "gz" ? ending + ".gz" : ""));
    if (made.resources) setTimeout(() => go(made.resources), 1500);
    $("state").textContent = `The download of ${current.file} has begun.` + (made.resources ? " The second medium follows." : "");
  } catch (error) {
    $("state").textContent = "No image: " + error.message;
  }
  $("download").disabled = false;
}

async function copy() {
  $("link").select();
  try {
    await navigator.clipboard.writeText($("link").value);
    $("state").textContent = "The link is copied.";
  } catch {
    $("state").textContent = "The link is selected: copy it with Ctrl+C.";
  }
}

async function start() {
  if (!possible()) {
    $("make").disabled = true;
    $("made").textContent = "Browsers make keys over HTTPS or on localhost only. Paste a certificate here.";
  }
  try {
    const known = await call("/1.0/releases");
    releases = known.releases;
    $("server").value = known.server_url ?? "";
  } catch (error) {
    notice("The releases cannot be listed: " + error.message);
    return;
  }
  if (releases.length === 0) {
    notice("This service has no image to offer. Publish a release with its install medium.");
    return;
  }
  const channels = [...new Set(releases.flatMap((r) => r.channels))].sort();
  options("channel", channels.map((c) => [c, c]), "stable");
  const first = releases[0].architectures;
  if (!first[value("architecture")]) $("architecture").value = Object.keys(first)[0];
  offer();
  try {
    if (location.hash.length > 1 && !$(location.hash.slice(1))) fill(JSON.parse(fromFragment(location.hash.slice(1))));
  } catch {
    notice("The address of this page is not whole, so the form begins empty.");
  }
  layout();
  for (const event of ["input", "change"]) {
    $("form").addEventListener(event, (e) => {
      if (["architecture", "type", "channel", "version"].includes(e.target.id)) offer();
      layout();
      later();
    });
  }
  $("form").addEventListener("submit", (e) => e.preventDefault());
  $("make").addEventListener("click", make);
  $("download").addEventListener("click", download);
  $("copy").addEventListener("click", copy);
  await refresh();
}

start();
