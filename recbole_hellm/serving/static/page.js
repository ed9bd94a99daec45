// Suggestions while typing, and options that apply at once. Without scripts, the forms do the same.
"use strict";

function suggestions(input) {
  const kind = input.dataset.suggest;
  const list = document.createElement("ul");
  const status = document.createElement("span");
  list.id = input.id + "-suggestions";
  list.className = "suggestions";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Suggestions");
  list.hidden = true;
  status.className = "hidden";
  status.setAttribute("role", "status");
  input.after(list, status);
  input.setAttribute("role", "combobox");
  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-expanded", "false");
  input.setAttribute("aria-controls", list.id);

  let found = [], chosen = -1, timer = 0, asked = 0;

  function close() {
    list.hidden = true;
    chosen = -1;
    asked += 1; // an answer on its way is too late
    clearTimeout(timer);
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function choose(place) {
    chosen = place;
    Array.from(list.children).forEach(function (option, i) {
      option.setAttribute("aria-selected", String(i === place));
      if (i === place) option.scrollIntoView({ block: "nearest" });
    });
    if (place >= 0) input.setAttribute("aria-activedescendant", list.children[place].id);
  }

  function take(place) {
    const parts = new URLSearchParams(new FormData(input.form));
    if (kind === "/api/users") {
      parts.set("user", found[place].user);
    } else {
      parts.delete("q");
      parts.append("item", found[place].item);
      try { sessionStorage.setItem("focus", input.id); } catch { /* private mode */ }
    }
    close();
    location.assign("/?" + parts);
  }

  function show(answer) {
    found = answer;
    list.replaceChildren(...found.map(function (one, i) {
      const option = document.createElement("li");
      option.id = list.id + "-" + i;
      option.setAttribute("role", "option");
      option.setAttribute("aria-selected", "false");
      option.textContent = one.user || one.title || one.item;
      if (one.item) {
        const small = document.createElement("span");
        small.className = "small";
        small.textContent = [one.item, one.categories].filter(Boolean).join(" · ");
        option.append(small);
      }
      // Before the input loses the focus.
      option.addEventListener("mousedown", function (event) { event.preventDefault(); });
      option.addEventListener("click", function () { take(i); });
      return option;
    }));
    chosen = -1;
    list.hidden = found.length === 0;
    input.setAttribute("aria-expanded", String(found.length > 0));
    input.removeAttribute("aria-activedescendant");
    status.textContent = (found.length || "No") + " suggestions";
  }

  function ask() {
    const words = input.value.trim(), mine = ++asked;
    if (!words) { close(); return; }
    fetch(kind + "?" + new URLSearchParams({ q: words, limit: "8" }))
      .then(function (response) { return response.ok ? response.json() : []; })
      .catch(function () { return []; }) // the form still works
      .then(function (answer) { if (mine === asked) show(answer); });
  }

  input.addEventListener("input", function () {
    clearTimeout(timer);
    timer = setTimeout(ask, 120);
  });
  input.addEventListener("keydown", function (event) {
    if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    } else if (!list.hidden && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      choose(chosen < 0 && step < 0 ? found.length - 1 : (chosen + step + found.length) % found.length);
    } else if (event.key === "Enter" && !list.hidden && chosen >= 0) {
      event.preventDefault();
      take(chosen);
    }
  });
  input.addEventListener("blur", close);
}

document.documentElement.classList.add("scripted");
document.querySelectorAll("input[data-suggest]").forEach(suggestions);

document.querySelectorAll("form[data-now]").forEach(function (form) {
  form.addEventListener("change", function () { if (form.reportValidity()) form.requestSubmit(); });
});

// Go on adding items, where no keyboard would cover the page.
try {
  const id = sessionStorage.getItem("focus");
  sessionStorage.removeItem("focus");
  const input = id && document.getElementById(id);
  if (input && matchMedia("(hover: hover)").matches) input.focus();
} catch { /* private mode */ }
