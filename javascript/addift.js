// The tab 'Train Difference LoRA': polls the server while a job runs, sends it what is typed, inserts tags into
// prompts, and copies pictures from the galleries. Works on the DOM of gradio 3.41 (A1111), 4.40 (Forge) and 6.
(() => {
    "use strict";
    if (window.addift) return;

    const POLL = 700; // ms
    const TIMEOUT = 10_000; // ms after which the answer to a request is not waited for any more
    const QUIET = 300; // ms without input after which it is sent to the server
    const GALLERIES = ["txt2img", "img2img", "extras"];
    const LISTS = // attributes that change when a list does
        ["open", "data-addift-row", "data-addift-act", "data-percent", "data-left", "data-text"];
    const ROLES = ["original", "target"];
    const SLOTS = [...ROLES, "pair_mask"];
    const FILLING = "#addift_preset, #addift_set_method"; // a choice there fills in other fields
    const FIELDS = "#addift_form, #addift_advanced";
    const NO_FIELDS = "button[id], [data-addift-act], #addift_settings_search";
    const RESTORED = '<span data-addift-restored="1"></span>';

    const byId = (id) => document.getElementById(id);
    const press = (id) => byId(id)?.click();
    const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

    let askedAt = 0; // when the request was sent whose answer is missing, ms since 1970; 0 = there is none
    const requests = new Set(); // the hidden buttons still to be pressed
    let wasVisible = false;
    let shownFile = ""; // the LoRA on show
    let restoreAfter = 0; // when the form is asked for again, ms since 1970
    let restorePause = POLL - 50; // ms
    const timers = {};
    const rowButtons = []; // pressed in the queue and not yet sent to the server: "retry 1234abcd"
    const openLogs = new Set(); // the jobs whose log is unfolded
    const touched = new Set(); // the fields in which a person did something, until the page is restored
    const untold = new Set(); // those of them that the server has not been told
    let lastFocus = null; // the element of the queue that had the focus: its row, and its action if it is a button

    const isVisible = () => byId("addift_root")?.offsetParent != null && document.visibilityState === "visible";
    const isRestored = () => document.querySelector("#addift_page [data-addift-restored]") !== null;
    const isActive = () => document.querySelector('#addift_root [data-addift-active="1"]') !== null;

    // The server answers calls at the same time and in any order: each is sent after the answer to the one before.
    function ask(request) {
        requests.add(request);
        askNext();
    }

    function askNext() {
        if (!requests.size || (askedAt && Date.now() - askedAt < TIMEOUT)) return;
        const [request] = requests;
        requests.delete(request);
        askedAt = Date.now();
        press(`addift_${request}`);
    }

    function answered() {
        askedAt = 0;
        if (rowButtons.length) requests.add("do");
        askNext();
    }

    function askSoon(request) {
        clearTimeout(timers[request]);
        timers[request] = setTimeout(() => ask(request), QUIET);
    }

    // The server stores what a preset or method fills in: the form as it was before must not be sent after that.
    function cancelDraft() {
        clearTimeout(timers.keep_draft);
        requests.delete("keep_draft");
    }

    // Fields that were edited meanwhile are sent together with those that were filled in.
    function filled() {
        ask("refresh");
        askSoon("keep_draft");
    }

    // Opening the page: see restoring.py. What a person did before the server's answer came goes before the answer.

    function touch(event) {
        if (isRestored()) return;
        for (let each = event.target; each; each = each.parentElement) {
            if (each.id?.startsWith("addift_")) touched.add(each.id.replace(/^addift_(set_)?/, ""));
        }
    }

    // Repeated until it answers, as gradio may not listen yet; ever more rarely, as a busy server answers late.
    function askForTheForm() {
        if (Date.now() < restoreAfter) return;
        press("addift_restore");
        restoreAfter = Date.now() + restorePause;
        restorePause = Math.min(2 * restorePause, TIMEOUT);
    }

    const isSame = (one, other) => JSON.stringify(one ?? "") === JSON.stringify(other ?? "");

    // The fields' values and the page's mark, from the stash and the fields' values as they are now.
    function restored(names, [stash, ...values]) {
        const [pictures, now] = [values.slice(0, SLOTS.length), values.slice(SLOTS.length)];
        if (!stash || isRestored()) return [...now, stash ? RESTORED : ""];
        const kept = JSON.parse(stash);
        SLOTS.forEach((slot, index) => (kept[slot] = [null, pictures[index], false]));
        names.forEach((name, index) => {
            if (!isSame(now[index], kept[name][0])) touched.add(name);
        });
        const isFilled = touched.has("preset") || touched.has("method"); // these have filled in settings
        return [
            ...names.map((name, index) => {
                const [, value, isSetting] = kept[name];
                if (!touched.has(name) && !(isFilled && isSetting)) return value;
                untold.add(name);
                return now[index];
            }),
            RESTORED,
        ];
    }

    function tellTouched() {
        if (SLOTS.some((slot) => untold.has(slot))) ask("keep_pictures");
        if (untold.size) askSoon("keep_draft");
        untold.clear();
    }

    function onInput(event) {
        if (!isRestored()) return;
        if (event.target.closest(FILLING)) return cancelDraft();
        if (event.target.closest("#addift_scrub")) askSoon("look");
        if (event.target.closest(FIELDS) && !event.target.closest(NO_FIELDS)) askSoon("keep_draft");
    }

    function listen(root) {
        if (root.dataset.addiftListens) return;
        root.dataset.addiftListens = "1";
        for (const kind of ["input", "change", "click", "focusout"]) root.addEventListener(kind, onInput);
        new MutationObserver(restoreLists).observe(root, { childList: true, subtree: true, attributeFilter: LISTS });
        const live = byId("addift_live");
        live?.setAttribute("role", "status");
        live?.setAttribute("aria-live", "polite");
    }

    function tick() {
        const root = byId("addift_root");
        if (!root) return;
        if (!isRestored()) return askForTheForm();
        listen(root);
        tellTouched();
        const visible = isVisible();
        if (visible && (isActive() || !wasVisible)) ask("refresh");
        wasVisible = visible;
        askNext();
        nameNumberBoxes(root);
        namePictures(root);
        refreshLoraCards();
    }

    // gradio 3 labels of a slider only the track, not the box with the number.
    function nameNumberBoxes(root) {
        for (const box of root.querySelectorAll('input[data-testid="number-input"]:not([aria-label])')) {
            const name = box.parentElement.querySelector('[data-testid="block-info"]')?.textContent.trim();
            if (name && !box.labels?.length) box.setAttribute("aria-label", name);
        }
    }

    // gradio 4 names neither a picture nor the button for files behind it.
    function namePictures(root) {
        for (const part of root.querySelectorAll('[data-testid="image"] :is(img:not([alt]), button:not([aria-label]))')) {
            const name = part.closest(".block")?.querySelector('[data-testid="block-label"]')?.textContent.trim();
            if (name && !part.textContent.trim()) part.setAttribute(part.alt === undefined ? "aria-label" : "alt", name);
        }
    }

    // The cards of the Lora tabs are made when the page opens: a new LoRA appears there after the tabs' own refresh.
    function refreshLoraCards() {
        const made = document.querySelector("#addift_result [data-addift-made]")?.dataset.addiftMade ?? "";
        if (made && made !== shownFile) {
            for (const tab of ["txt2img", "img2img"]) {
                press(`${tab}_lora_extra_refresh_internal`);
                press(`addift_sliders_refresh_${tab}`);
            }
        }
        shownFile = made;
    }

    // Lists: the queue, the pairs. When one changes, gradio 3 and 4 replace all elements, and 6 reuses elements for
    // other rows: open logs and the focus are restored before the browser draws.

    function onClick(event) {
        const log = event.target.closest("[data-addift-log] > summary")?.parentElement;
        if (log) openLogs[log.open ? "delete" : "add"](log.dataset.addiftLog); // `open` changes after this event
        const { addiftAct: act, addiftJob: job } = event.target.closest("[data-addift-act]")?.dataset ?? {};
        if (!act) return;
        rowButtons.push(`${act} ${job}`);
        ask("do");
        if (act === "show" || act === "repeat") openTab("addift_tab_pair");
        if (act === "pair_show") openTab("addift_way_mine");
    }

    function placeOf(element) {
        const row = element?.closest?.("#addift_root [data-addift-row]")?.dataset.addiftRow;
        return row ? { row, act: element.dataset.addiftAct ?? "" } : null;
    }

    const isNothing = (element) => !element || element === document.body;

    function rememberFocus(event) {
        lastFocus = event.target.matches?.("button, summary, input") ? placeOf(event.target) : null;
    }

    function restoreLists() {
        const queue = byId("addift_queue");
        for (const log of queue?.querySelectorAll("[data-addift-log]") ?? []) {
            const isOpen = openLogs.has(log.dataset.addiftLog);
            if (log.open !== isOpen) log.open = isOpen;
        }
        for (const news of document.querySelectorAll("#addift_queue_news [data-addift-news]")) {
            const row = queue?.querySelector(`[data-addift-row="${news.dataset.addiftNews}"]`);
            if (row) updateRow(row, news.dataset);
        }
        const now = placeOf(document.activeElement);
        const isSame = now?.row === lastFocus?.row && now?.act === lastFocus?.act;
        const isLost = now ? !isSame : isNothing(document.activeElement);
        if (lastFocus && isLost) {
            const row = byId("addift_root").querySelector(`[data-addift-row="${lastFocus.row}"]`);
            const same = row?.querySelector(lastFocus.act ? `[data-addift-act="${lastFocus.act}"]:enabled` : "summary");
            (same ?? row?.querySelector("button:enabled"))?.focus({ preventScroll: true });
        }
    }

    function updateRow(row, { percent, steps, left, text }) {
        const bar = row.querySelector(".addift-bar");
        bar?.setAttribute("aria-valuenow", percent);
        bar?.setAttribute("aria-valuetext", steps);
        bar?.firstElementChild.style.setProperty("width", `${percent}%`);
        for (const [css, words] of [[".addift-step", steps], [".addift-left", left], [".addift-text", text]]) {
            const place = row.querySelector(css);
            const shown = window.addiftTranslate?.(words) ?? words;
            // Only if it differs: each change calls the observer, which calls this.
            if (place && place.textContent !== shown) place.textContent = shown;
        }
    }

    // The result: pictures drawn over each other, and a walk through the weights.

    function onSlide({ target }) {
        if (target.matches?.("[data-addift-wipe]")) {
            target.parentElement.style.setProperty("--wipe", `${target.value}%`);
            target.setAttribute("aria-valuetext", `${target.value} %`);
        }
        const weights = target.dataset?.addiftWalk?.split(" ");
        if (!weights) return;
        target.closest(".addift-walk").style.setProperty("--place", target.value);
        target.setAttribute("aria-valuetext", weights[target.value]);
    }

    // The settings in whose name or help all words of the search are.
    function search() {
        const words = (byId("addift_search")?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
        const settings = [...document.querySelectorAll('#addift_advanced [id^="addift_set_"]')];
        const isFound = (each) => words.every((word) => `${each.id} ${each.textContent}`.toLowerCase().includes(word));
        const lost = settings.filter((each) => !isFound(each)).map((each) => `#${each.id}`);
        const groups = [...document.querySelectorAll("#addift_advanced .addift-group")];
        const isLost = (each) => lost.includes(`#${each.id}`);
        const empty = groups.filter((each) => [...each.querySelectorAll('[id^="addift_set_"]')].every(isLost));
        const style = byId("addift_search_style") ?? document.head.appendChild(document.createElement("style"));
        style.id = "addift_search_style";
        const hidden = [...lost, ...empty.map((each) => `#${each.id}`)].join(", ");
        style.textContent = hidden ? `${hidden} { display: none !important }` : "";
        byId("addift_search_none").hidden = lost.length < settings.length;
    }

    // Prompts.

    function insert(tab) {
        const tag = document.querySelector("#addift_result [data-addift-tag]")?.dataset.addiftTag;
        const prompt = document.querySelector(`#${tab}_prompt textarea`);
        if (!tag || !prompt) return;
        // Not if the LoRA is there already, maybe at another weight.
        if (!prompt.value.includes(tag.replace(/[^:]*>$/, ""))) {
            prompt.value = prompt.value.trim() ? `${prompt.value.trimEnd()} ${tag}` : tag;
            prompt.dispatchEvent(new Event("input", { bubbles: true }));
        }
        openTab(`tab_${tab}`);
        prompt.focus();
    }

    // The buttons of a row of tabs stand in the order of its panels; their texts may be translated.
    function openTab(id) {
        const button = byId(`${id}-button`); // gradio 4
        if (button) return button.click();
        const panel = byId(id);
        const panels = [...(panel?.parentElement.children ?? [])].filter((each) => each.classList.contains("tabitem"));
        const buttons = panel?.parentElement.querySelectorAll(":scope > .tab-nav > button");
        buttons?.[panels.indexOf(panel)]?.click();
    }

    // Pictures.

    function galleryPicture(tab) {
        const gallery = byId(`${tab}_gallery`);
        const selected = gallery?.querySelector(".thumbnail-item.selected img, .thumbnails .selected img");
        return selected ?? gallery?.querySelector('[data-testid="detailed-image"], .preview img, img');
    }

    // Several files dropped on the form, or files pasted anywhere on it, go into the box for files.
    function onFiles(event) {
        const { files } = event.dataTransfer ?? event.clipboardData ?? { files: [] };
        const pictures = [...files].filter((file) => /^(image|text)\//.test(file.type));
        const isPaste = event.type === "paste";
        const box = byId("addift_files")?.querySelector('input[type="file"]');
        const place = event.target.closest?.("#addift_form");
        if (!box || !pictures.length || (isPaste ? !isVisible() : !place || pictures.length < 2)) return;
        if (isPaste && event.target.matches?.("input, textarea")) return;
        if (!isPaste && event.target.closest("#addift_files")) return; // gradio's own
        event.preventDefault();
        event.stopPropagation();
        put(box, pictures);
    }

    // A browser opens files that are dropped where nobody has said before that they may be.
    function allowDrop(event) {
        if (event.target.closest?.("#addift_form") && event.dataTransfer?.types.includes("Files")) event.preventDefault();
    }

    function put(input, files) {
        const transfer = new DataTransfer();
        for (const file of files) transfer.items.add(file);
        input.files = transfer.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
    }

    async function send(tab, role) {
        const picture = galleryPicture(tab);
        if (!picture) return;
        const blob = await (await fetch(picture.src)).blob();
        const name = `${role}.${(blob.type.split("/")[1] ?? "png").replace("jpeg", "jpg")}`;
        openTab("tab_addift");
        openTab("addift_tab_pair");
        await fill(role, new File([blob], name, { type: blob.type }));
    }

    // Put a file into a slot as if a person had chosen it.
    async function fill(role, file) {
        const find = () => byId(`addift_${role}`)?.querySelector('input[type="file"]');
        const labels = ["Clear", "Remove Image", "Remove"];
        for (let tries = 0; tries < 40 && !find(); tries++) {
            const buttons = [...(byId(`addift_${role}`)?.querySelectorAll("button") ?? [])];
            const clear = buttons.find((each) => labels.includes(each.ariaLabel) || labels.includes(each.title));
            if (clear && tries % 10 === 0) clear.click();
            await sleep(50);
        }
        const input = find();
        if (input) put(input, [file]);
    }

    function addSendButtons() {
        for (const tab of GALLERIES) {
            const row = byId(`image_buttons_${tab}`);
            if (!row || byId(`addift_send_${tab}_original`)) continue;
            const ours = document.createElement("div");
            ours.className = "addift-send";
            ours.append("to Difference LoRA:");
            for (const role of ROLES) {
                const button = document.createElement("button");
                button.id = `addift_send_${tab}_${role}`;
                button.type = "button";
                button.textContent = role;
                button.title = `Send the picture to Train Difference LoRA as the ${role}.`;
                button.setAttribute("aria-label", `to Difference LoRA: ${role}`);
                button.addEventListener("click", () => send(tab, role));
                ours.append(button);
            }
            row.after(ours);
        }
    }

    const nextRowButton = () => rowButtons.shift() ?? "";
    window.addift = { insert, answered, filled, restored, refresh: () => ask("refresh"), nextRowButton };
    document.addEventListener("click", onClick);
    document.addEventListener("input", onSlide);
    document.addEventListener("input", (event) => event.target.id === "addift_search" && search());
    for (const kind of ["drop", "paste"]) document.addEventListener(kind, onFiles, true);
    document.addEventListener("dragover", allowDrop);
    for (const kind of ["input", "change", "drop", "paste"]) document.addEventListener(kind, touch, true);
    for (const kind of ["focusin", "pointerdown"]) document.addEventListener(kind, rememberFocus);
    setInterval(() => {
        tick();
        addSendButtons();
    }, POLL);
})();
