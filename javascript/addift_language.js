// The extension's texts in the person's language, from the files in localizations/, in which a text stands beside its
// translation. A WebUI merges them into `window.localization` for the language chosen in its settings, and replaces
// texts that equal a key by itself. Keys with {} in them are messages with values: they are translated here. Without a
// WebUI all is translated here, into the language of the browser.
(() => {
    "use strict";
    if (window.addiftTranslate) return;

    const OURS = '#addift_root, [id^="addift_sliders_"], .addift-send';
    const NAMES = '.addift-head h3, .addift-head h4, [translate="no"]'; // what a person has named
    const UNCHANGED = `script, style, textarea, code, pre, ${NAMES}`;
    const ATTRIBUTES = ["title", "placeholder", "aria-label", "aria-valuetext", "alt"];
    const VALUE = "{}";

    const table = window.localization ?? tableOfBrowser(window.addiftLocalizations ?? {});
    const exact = new Map(); // text -> translation
    const patterns = []; // of the texts with values: [regular expression, translation]
    const known = new Map(); // what was looked up, also where there was nothing

    function tableOfBrowser(tables) {
        const language = (name) => name.toLowerCase().split(/[-_]/)[0];
        for (const wanted of navigator.languages.map(language)) {
            const name = Object.keys(tables).find((each) => language(each) === wanted);
            if (name) return tables[name];
            if (wanted === "en") break;
        }
        return {};
    }

    const oneLine = (text) => text.replace(/\s+/g, " ").trim();

    // Sentences are shown with or without a capital and a full stop: where there is no such text, neither counts.
    function normal(text) {
        const line = oneLine(text).replace(/\.$/, "");
        return line.charAt(0).toLowerCase() + line.slice(1);
    }

    const literal = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

    function addToTables() {
        const withValues = [];
        for (const [text, translation] of Object.entries(table)) {
            if (text.includes(VALUE)) withValues.push([normal(text), translation]);
            else exact.set(text, translation);
        }
        for (const [text, translation] of [...exact]) {
            if (!exact.has(normal(text))) exact.set(normal(text), translation);
        }
        withValues.sort(([one], [other]) => other.length - one.length); // what says more goes before what says less
        for (const [text, translation] of withValues) {
            patterns.push([new RegExp(`^${text.split(VALUE).map(literal).join("(.*?)")}$`), translation]);
        }
    }

    // The translation with the values put in: {} is the next one, {2} the second. Values may be texts themselves.
    function filled(translation, values) {
        let next = 0;
        return translation.replace(/\{(\d*)\}/g, (_place, number) => {
            const value = values[number ? number - 1 : next++] ?? "";
            return translated(value) ?? value;
        });
    }

    function fromPatterns(text) {
        for (const [pattern, translation] of patterns) {
            const found = pattern.exec(text);
            if (found) return filled(translation, found.slice(1));
        }
        return undefined;
    }

    function fromSentences(text) {
        const sentences = text.split(/(?<=[.!?]) (?=[A-Z])/);
        if (sentences.length === 1) return undefined;
        const parts = sentences.map(translated);
        if (parts.every((each) => each === undefined)) return undefined;
        return parts.map((each, index) => each ?? ` ${sentences[index]} `).join("").trim();
    }

    function translated(text) {
        const line = oneLine(text);
        if (!/[a-z]/i.test(line)) return undefined;
        if (!known.has(line)) {
            const key = normal(line);
            known.set(line, exact.get(line) ?? exact.get(key) ?? fromPatterns(key) ?? fromSentences(line));
        }
        return known.get(line);
    }

    function translateText(node) {
        if (!node.parentElement?.closest(OURS) || node.parentElement.closest(UNCHANGED)) return;
        const text = translated(node.data);
        if (text !== undefined && text !== node.data) node.data = text;
    }

    function translateAttributes(element) {
        if (!element.closest(OURS) || element.closest(UNCHANGED)) return;
        for (const name of ATTRIBUTES) {
            const value = element.getAttribute(name);
            const text = value ? translated(value) : undefined;
            if (text !== undefined && text !== value) element.setAttribute(name, text);
        }
    }

    function translateTree(root) {
        if (root.nodeType === Node.TEXT_NODE) return translateText(root);
        if (root.nodeType !== Node.ELEMENT_NODE) return;
        const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
        for (let node = root; node; node = walker.nextNode()) {
            if (node.nodeType === Node.TEXT_NODE) translateText(node);
            else translateAttributes(node);
        }
    }

    function onChanges(changes) {
        for (const { type, target, addedNodes } of changes) {
            if (type === "characterData") translateText(target);
            else if (type === "attributes") translateAttributes(target);
            else addedNodes.forEach(translateTree);
        }
    }

    window.addiftTranslate = (text) => translated(text) ?? text;
    if (!Object.keys(table).length) return;
    addToTables();
    translateTree(document.documentElement);
    new MutationObserver(onChanges).observe(document.documentElement, {
        attributeFilter: ATTRIBUTES,
        characterData: true,
        childList: true,
        subtree: true,
    });
})();
